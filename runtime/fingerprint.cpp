#include "runtime/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace spillway {
namespace {

constexpr uint64_t kSampleBytes = 4096;
constexpr uint64_t kSamples = 16;  // of a file, from its beginning to its end

class Hash {
 public:
  Hash() { XXH3_64bits_reset(&state_); }
  void add(uint64_t number) { XXH3_64bits_update(&state_, &number, sizeof number); }
  void add(std::string_view text) {
    add(text.size());
    XXH3_64bits_update(&state_, text.data(), text.size());
  }
  void add_samples(const File& file) {
    add(file.bytes());
    const uint64_t bytes = std::min(kSampleBytes, file.bytes());
    std::vector<std::byte> sample(bytes);
    for (uint64_t i = 0; i < kSamples; ++i) {
      file.read((file.bytes() - bytes) / (kSamples - 1) * i, sample);
      XXH3_64bits_update(&state_, sample.data(), sample.size());
    }
  }
  uint64_t value() const { return XXH3_64bits_digest(&state_); }

 private:
  XXH3_state_t state_;
};

}  // namespace

std::string fingerprint(const Checkpoint& checkpoint) {
  Hash hash;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    hash.add(name);
    hash.add(info(tensor.dtype).name);
    for (const int64_t number : {tensor.rows, tensor.cols, tensor.stacked}) hash.add(static_cast<uint64_t>(number));
    for (const uint64_t number : {uint64_t{tensor.extent.file}, tensor.extent.offset, tensor.extent.bytes}) {
      hash.add(number);
    }
  }
  for (const File& file : checkpoint.files) hash.add_samples(file);
  return fmt::format("{:016x}", hash.value());
}

}  // namespace spillway

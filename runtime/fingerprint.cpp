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

// What is hashed, all of it at once: some hundred kilobytes. (XXH3's streaming does not compile inline with
// sanitizers.)
class Hash {
 public:
  void add(uint64_t number) { bytes_.append(reinterpret_cast<const char*>(&number), sizeof number); }
  void add(std::string_view text) {
    add(uint64_t{text.size()});
    bytes_.append(text);
  }
  void add_samples(const File& file) {
    add(file.bytes());
    const uint64_t bytes = std::min(kSampleBytes, file.bytes());
    std::vector<std::byte> sample(bytes);
    for (uint64_t i = 0; i < kSamples; ++i) {
      file.read((file.bytes() - bytes) / (kSamples - 1) * i, sample);
      bytes_.append(reinterpret_cast<const char*>(sample.data()), sample.size());
    }
  }
  uint64_t value() const { return XXH3_64bits(bytes_.data(), bytes_.size()); }

 private:
  std::string bytes_;
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

#include "runtime/fingerprint.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "kernels/check.h"

namespace spillway {
namespace {

// Bytes of a tensor that enter into a fingerprint: at its beginning, middle and end.
constexpr uint64_t kSampleBytes = 256;

class Fingerprint {
 public:
  Fingerprint() : state_(XXH3_createState()) {
    SPILLWAY_CHECK(state_ != nullptr);
    XXH3_64bits_reset(state_);
  }
  ~Fingerprint() { XXH3_freeState(state_); }
  Fingerprint(const Fingerprint&) = delete;

  void bytes(const void* data, size_t count) { XXH3_64bits_update(state_, data, count); }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void add(T value) { bytes(&value, sizeof value); }
  void add(const std::string& text) {
    add<uint64_t>(text.size());
    bytes(text.data(), text.size());
  }
  template <typename T>
  void add(const std::vector<T>& list) {
    add<uint64_t>(list.size());
    for (const T& one : list) add(one);
  }
  void add(const MetaArray& array) {
    std::visit([this](const auto& list) { add(list); }, array);
  }
  void add(const MetaValue& value) {
    add<uint64_t>(value.index());
    std::visit([this](const auto& one) { add(one); }, value);
  }
  std::string text() const { return fmt::format("{:016x}", XXH3_64bits_digest(state_)); }

 private:
  XXH3_state_t* state_;
};

// What says nothing of the computation of queries and keys.
bool passed_over(const std::string& key) {
  constexpr std::string_view kPrefixes[] = {"general.", "tokenizer.", "split.", "quantize."};
  return std::any_of(std::begin(kPrefixes), std::end(kPrefixes),
                     [&](std::string_view prefix) { return key.starts_with(prefix); });
}

void add_samples(Fingerprint& print, const Checkpoint& checkpoint, const Extent& extent) {
  std::byte sample[kSampleBytes];
  const uint64_t bytes = std::min(kSampleBytes, extent.bytes);
  const uint64_t room = extent.bytes - bytes;
  for (const uint64_t at : {uint64_t{0}, room / 2, room}) {
    checkpoint.files[extent.file].read(extent.offset + at, {sample, bytes});
    print.bytes(sample, bytes);
  }
}

}  // namespace

std::string fingerprint(const Checkpoint& checkpoint) {
  Fingerprint print;
  for (const auto& [key, value] : checkpoint.meta) {
    if (passed_over(key)) continue;
    print.add(key);
    print.add(value);
  }
  for (const auto& [name, tensor] : checkpoint.tensors) {
    print.add(name);
    print.add(static_cast<int>(tensor.dtype));
    for (const int64_t number : {tensor.rows, tensor.cols, tensor.stacked}) print.add(number);
    add_samples(print, checkpoint, tensor.extent);
  }
  for (const File& file : checkpoint.files) print.add(file.bytes());
  return print.text();
}

}  // namespace spillway

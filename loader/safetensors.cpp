#include "loader/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "loader/byte_reader.h"
#include "loader/printable.h"

namespace spillway {
namespace {

constexpr uint64_t kHeaderLimit = 100'000'000;  // as the format's own library has it
constexpr size_t kTensorsLimit = 1 << 20;
constexpr size_t kNameLimit = 4096;
constexpr size_t kMostDims = 8;
constexpr uint64_t kLengthBytes = 8;

struct StoredType {
  std::string_view name;
  uint64_t bytes;
  std::optional<DType> dtype;  // none: not read
  bool passed_over = false;    // a buffer that no layer computes with
};

constexpr StoredType kTypes[] = {
    {"F32", 4, DType::f32}, {"F16", 2, DType::f16}, {"BF16", 2, DType::bf16}, {"F64", 8, {}},
    {"F8_E4M3", 1, {}},     {"F8_E5M2", 1, {}},     {"I64", 8, {}, true},     {"I32", 4, {}, true},
    {"I16", 2, {}, true},   {"I8", 1, {}, true},    {"U64", 8, {}, true},     {"U32", 4, {}, true},
    {"U16", 2, {}, true},   {"U8", 1, {}, true},    {"BOOL", 1, {}, true},
};

// A tensor as the header tells of it.
struct Entry {
  std::string name;
  std::optional<std::string> dtype;
  std::optional<std::vector<uint64_t>> shape, offsets;
};

// Takes the header's entries one by one as the parser meets them; what has another form than a header stops it.
class HeaderHandler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::string problem;

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a truth value"); }
  bool number_integer(number_integer_t) override { return other("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a fraction"); }
  bool binary(binary_t&) override { return other("bytes"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (numbers_ == nullptr) return other("a number");
    if (numbers_->size() == kMostDims) return stop("has a list of more than 8 numbers");
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (in_metadata_) return true;
    if (depth_ != 2 || field_ != "dtype") return other("a text");
    entries.back().dtype = std::move(value);
    return true;
  }

  bool start_object(size_t) override {
    if (in_metadata_ && depth_ == 2) return stop_metadata();
    if (depth_ == 2 || numbers_ != nullptr) return stop("has an object where the format has none");
    ++depth_;
    return true;
  }

  bool end_object() override {
    --depth_;
    in_metadata_ = false;
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) return tensor_key(name);
    if (in_metadata_) return true;
    field_ = std::move(name);
    if (field_ != "dtype" && field_ != "shape" && field_ != "data_offsets") {
      return stop(fmt::format("has the key {}, which the format does not know", printable(field_)));
    }
    return true;
  }

  bool start_array(size_t) override {
    if (in_metadata_) return stop_metadata();
    if (depth_ != 2 || numbers_ != nullptr || field_ == "dtype") return other("a list");
    auto& list = field_ == "shape" ? entries.back().shape : entries.back().offsets;
    if (list) return stop(fmt::format("has {} twice", field_));
    numbers_ = &list.emplace();
    return true;
  }

  bool end_array() override {
    numbers_ = nullptr;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    problem = fmt::format("at byte {}: the header is no JSON that can be read", kLengthBytes + position);
    return false;
  }

 private:
  bool tensor_key(std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return true;
    if (name.size() > kNameLimit) return stop("and after it: a name is too long");
    if (entries.size() == kTensorsLimit) return stop(fmt::format("and {} others: too many tensors", kTensorsLimit));
    entries.push_back({.name = std::move(name), .dtype = {}, .shape = {}, .offsets = {}});
    return true;
  }

  bool stop(const std::string& what) {
    const std::string name = entries.empty() ? "" : " " + printable(entries.back().name);
    problem = fmt::format("at byte {}: in the header, the tensor{} {}", kLengthBytes, name, what);
    return false;
  }

  // What follows in a list would be taken for a tensor's.
  bool stop_metadata() {
    problem =
        fmt::format("at byte {}: in the header, __metadata__ has an object or a list where texts are", kLengthBytes);
    return false;
  }

  bool other(const char* kind) {
    if (in_metadata_) return true;
    return stop(fmt::format("has {} where the format has none", kind));
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::string field_;
  std::vector<uint64_t>* numbers_ = nullptr;
};

// Checks one entry against the file and says where its bytes are.
class Placer {
 public:
  Placer(const File& file, uint32_t index, uint64_t data_start) : file_(file), index_(index), data_start_(data_start) {}

  // Nothing for a tensor that is passed over.
  std::optional<TensorInfo> place(const Entry& entry) const {
    if (!entry.dtype || !entry.shape || !entry.offsets || entry.offsets->size() != 2) {
      fail(entry, kLengthBytes, "lacks its dtype, its shape or its two data_offsets");
    }
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const StoredType& known) { return known.name == *entry.dtype; });
    if (type == std::end(kTypes) || (!type->dtype && !type->passed_over)) {
      throw Error(ErrorKind::model, of_unread_type(entry));
    }
    TensorInfo tensor{.name = entry.name, .extent = extent_of(entry, *type)};
    if (!type->dtype) return {};
    tensor.dtype = *type->dtype;
    const std::vector<uint64_t>& shape = *entry.shape;
    tensor.cols = shape.empty() ? 1 : static_cast<int64_t>(shape.back());
    tensor.rows = tensor.cols == 0 ? 0 : static_cast<int64_t>(tensor.extent.bytes / type->bytes) / tensor.cols;
    if (tensor.rows == 0) fail(entry, tensor.extent.offset, "is empty");
    return tensor;
  }

  std::string of_unread_type(const Entry& entry) const {
    return message(entry, kLengthBytes,
                   fmt::format("is of type {}; the types read are F32, F16 and BF16", printable(*entry.dtype)));
  }

 private:
  Extent extent_of(const Entry& entry, const StoredType& type) const {
    uint64_t bytes = type.bytes;
    for (const uint64_t size : *entry.shape) {
      if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > INT64_MAX) {
        fail(entry, kLengthBytes, "has a shape that overflows");
      }
    }
    const uint64_t begin = (*entry.offsets)[0], end = (*entry.offsets)[1];
    const uint64_t data_bytes = file_.bytes() - data_start_;
    if (begin > end || end > data_bytes) {
      fail(entry, data_start_,
           fmt::format("lies at {} to {} of {} bytes of data: the file is truncated or lies", begin, end, data_bytes));
    }
    if (end - begin != bytes) {
      fail(entry, data_start_ + begin,
           fmt::format("has {} bytes of data, but its shape and type ask for {}", end - begin, bytes));
    }
    if ((data_start_ + begin) % type.bytes != 0) {
      // What older writers left so. Kernels and drives read weights where they lie: there is no place to move them.
      fail(entry, data_start_ + begin,
           fmt::format(
               "is not aligned to its elements of {} bytes (an older writer's file); written anew it is: "
               "python3 -c \"from safetensors.torch import *; save_file(load_file('OLD'), 'NEW', {{'format': 'pt'}})\"",
               type.bytes));
    }
    return {index_, data_start_ + begin, bytes};
  }

  std::string message(const Entry& entry, uint64_t at, const std::string& what) const {
    return fmt::format("{}: at byte {}: the tensor {} {}", file_.path(), at, printable(entry.name), what);
  }
  [[noreturn]] void fail(const Entry& entry, uint64_t at, const std::string& what) const {
    throw Error(ErrorKind::model, message(entry, at, what));
  }

  const File& file_;
  uint32_t index_;
  uint64_t data_start_;
};

std::vector<Entry> read_entries(const File& file, uint64_t length) {
  std::vector<char> text(length);
  file.read(kLengthBytes, std::as_writable_bytes(std::span(text)));
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    throw Error(ErrorKind::model, fmt::format("{}: {}", file.path(), handler.problem));
  }
  return std::move(handler.entries);
}

void refuse_overlaps(const File& file, std::vector<const TensorInfo*> placed) {
  std::sort(placed.begin(), placed.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->extent.offset < b->extent.offset; });
  for (size_t i = 1; i < placed.size(); ++i) {
    const TensorInfo &before = *placed[i - 1], &after = *placed[i];
    if (before.extent.offset + before.extent.bytes > after.extent.offset) {
      throw Error(ErrorKind::model, fmt::format("{}: at byte {}: the tensors {} and {} overlap", file.path(),
                                                after.extent.offset, printable(before.name), printable(after.name)));
    }
  }
}

}  // namespace

void read_safetensors(const File& file, uint32_t index, std::map<std::string, TensorInfo>& tensors,
                      std::map<std::string, std::string>* unread) {
  ByteReader reader(file, kLengthBytes + kHeaderLimit);
  const auto length = reader.value<uint64_t>("the length of the header");
  reader.need(length, "the header");
  const Placer placer(file, index, kLengthBytes + length);
  std::vector<const TensorInfo*> placed;
  for (const Entry& entry : read_entries(file, length)) {
    std::optional<TensorInfo> tensor = placer.place(entry);
    if (!tensor) {
      if (unread != nullptr) unread->emplace(entry.name, placer.of_unread_type(entry));
      continue;
    }
    const auto [at, inserted] = tensors.emplace(entry.name, std::move(*tensor));
    if (!inserted) {
      throw Error(ErrorKind::model, fmt::format("{}: at byte {}: the tensor {} occurs twice", file.path(), kLengthBytes,
                                                printable(entry.name)));
    }
    placed.push_back(&at->second);
  }
  refuse_overlaps(file, std::move(placed));
}

}  // namespace spillway

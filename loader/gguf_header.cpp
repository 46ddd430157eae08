#include "loader/gguf_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "loader/byte_reader.h"
#include "loader/gguf_types.h"
#include "loader/printable.h"

namespace spillway {
namespace {

constexpr uint64_t kHeaderLimit = 128 << 20;  // the largest real ones (250k tokens with merges) are about 15 MB
constexpr uint64_t kKeysLimit = 1 << 16;
constexpr uint64_t kTensorsLimit = 1 << 17;
constexpr uint64_t kArrayLimit = 1 << 24;
constexpr uint64_t kKeyBytes = 65535;  // the format's own limit
constexpr uint64_t kNameBytes = 256;
constexpr uint64_t kTextBytes = 64 << 20;
// Of memory for all arrays: a byte of the file may take 8 of memory, an empty text 32. The largest real ones take 40
// MB.
constexpr uint64_t kHeldLimit = 96 << 20;
constexpr uint64_t kAlignmentLimit = 1 << 30;
constexpr uint64_t kAlignmentDefault = 32;
// The least a record takes in the file, to judge a count before anything is reserved.
constexpr uint64_t kKeyRecordBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kTensorRecordBytes = 8 + 1 + 4 + 8 + 4 + 8;

template <typename T>
MetaValue integer_of(ByteReader& reader) {
  return static_cast<int64_t>(reader.value<T>("a metadata value"));
}

// An unsigned value beyond int64_t is kept as the nearest double: no key we read comes near.
MetaValue unsigned_of(ByteReader& reader) {
  const uint64_t value = reader.value<uint64_t>("a metadata value");
  if (value > INT64_MAX) return static_cast<double>(value);
  return static_cast<int64_t>(value);
}

MetaValue boolean_of(ByteReader& reader) {
  const uint64_t at = reader.offset();
  const uint8_t value = reader.value<uint8_t>("a boolean");
  if (value > 1) reader.fail_at(at, fmt::format("a boolean is 0 or 1, not {}", value));
  return value == 1;
}

// Counts the memory that arrays take, before it is taken.
class Held {
 public:
  void add(const ByteReader& reader, uint64_t count, uint64_t bytes_each) {
    bytes_ += count * bytes_each;  // both are below 2^32
    if (bytes_ <= kHeldLimit) return;
    reader.fail(fmt::format("the arrays of the metadata take more than {} bytes of memory", kHeldLimit));
  }

 private:
  uint64_t bytes_ = 0;
};

template <typename T, typename Store>
MetaValue numbers_of(ByteReader& reader, uint64_t count, Held& held) {
  reader.need_items(count, sizeof(T), "an array");
  held.add(reader, count, sizeof(Store));
  std::vector<Store> items;
  reader.values<T>(count, items, "an array");
  return MetaArray(std::move(items));
}

MetaValue texts_of(ByteReader& reader, uint64_t count, Held& held) {
  reader.need_items(count, sizeof(uint64_t), "an array of texts");
  held.add(reader, count, sizeof(std::string));
  std::vector<std::string> items;
  items.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    items.push_back(reader.text(kTextBytes, "a text of an array"));
    held.add(reader, 1, items.back().size());
  }
  return MetaArray(std::move(items));
}

MetaValue array_of(ByteReader& reader, Held& held) {
  const uint64_t at = reader.offset();
  const uint32_t type = reader.value<uint32_t>("the type of an array");
  const uint64_t count = reader.value<uint64_t>("the length of an array");
  if (count > kArrayLimit) {
    reader.fail_at(at, fmt::format("an array claims {} items; at most {} are read", count, kArrayLimit));
  }
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::u8:
      return numbers_of<uint8_t, int64_t>(reader, count, held);
    case GgufValueType::i8:
      return numbers_of<int8_t, int64_t>(reader, count, held);
    case GgufValueType::u16:
      return numbers_of<uint16_t, int64_t>(reader, count, held);
    case GgufValueType::i16:
      return numbers_of<int16_t, int64_t>(reader, count, held);
    case GgufValueType::u32:
      return numbers_of<uint32_t, int64_t>(reader, count, held);
    case GgufValueType::i32:
      return numbers_of<int32_t, int64_t>(reader, count, held);
    case GgufValueType::f32:
      return numbers_of<float, double>(reader, count, held);
    case GgufValueType::boolean:
      return numbers_of<uint8_t, int64_t>(reader, count, held);
    case GgufValueType::text:
      return texts_of(reader, count, held);
    case GgufValueType::u64:
      return numbers_of<uint64_t, int64_t>(reader, count, held);
    case GgufValueType::i64:
      return numbers_of<int64_t, int64_t>(reader, count, held);
    case GgufValueType::f64:
      return numbers_of<double, double>(reader, count, held);
    case GgufValueType::array:
      reader.fail_at(at, "arrays of arrays are not read");
  }
  reader.fail_at(at, fmt::format("an array's items are of type {}, which GGUF does not know", type));
}

MetaValue value_of(ByteReader& reader, Held& held) {
  const uint64_t at = reader.offset();
  const uint32_t type = reader.value<uint32_t>("the type of a metadata value");
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::u8:
      return integer_of<uint8_t>(reader);
    case GgufValueType::i8:
      return integer_of<int8_t>(reader);
    case GgufValueType::u16:
      return integer_of<uint16_t>(reader);
    case GgufValueType::i16:
      return integer_of<int16_t>(reader);
    case GgufValueType::u32:
      return integer_of<uint32_t>(reader);
    case GgufValueType::i32:
      return integer_of<int32_t>(reader);
    case GgufValueType::f32:
      return static_cast<double>(reader.value<float>("a metadata value"));
    case GgufValueType::boolean:
      return boolean_of(reader);
    case GgufValueType::text:
      return reader.text(kTextBytes, "a text");
    case GgufValueType::array:
      return array_of(reader, held);
    case GgufValueType::u64:
      return unsigned_of(reader);
    case GgufValueType::i64:
      return integer_of<int64_t>(reader);
    case GgufValueType::f64:
      return reader.value<double>("a metadata value");
  }
  reader.fail_at(at, fmt::format("a metadata value is of type {}, which GGUF does not know", type));
}

struct Counts {
  uint64_t tensors;
  uint64_t keys;
};

Counts read_preamble(ByteReader& reader) {
  const uint32_t magic = reader.value<uint32_t>("the four letters GGUF");
  if (magic != 0x46554747) reader.fail_at(0, "not a GGUF file: it does not begin with the letters GGUF");
  const uint32_t version = reader.value<uint32_t>("the version");
  if (version == 0x02000000 || version == 0x03000000) {
    reader.fail_at(4, "a big-endian GGUF; only little-endian files are read");
  }
  if (version != 2 && version != 3) {
    reader.fail_at(4, fmt::format("GGUF version {}; versions 2 and 3 are read", version));
  }
  Counts counts{};
  counts.tensors = reader.value<uint64_t>("the number of tensors");
  counts.keys = reader.value<uint64_t>("the number of keys");
  if (counts.tensors > kTensorsLimit) {
    reader.fail_at(8, fmt::format("the file claims {} tensors; at most {} are read", counts.tensors, kTensorsLimit));
  }
  if (counts.keys > kKeysLimit) {
    reader.fail_at(16, fmt::format("the file claims {} keys; at most {} are read", counts.keys, kKeysLimit));
  }
  reader.need_items(counts.keys, kKeyRecordBytes, "the list of keys");
  reader.need_items(counts.tensors, kTensorRecordBytes, "the list of tensors");
  return counts;
}

void read_meta(ByteReader& reader, uint64_t count, std::map<std::string, MetaValue>& meta) {
  Held held;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = reader.offset();
    std::string key = reader.text(kKeyBytes, "a key");
    if (key.empty()) reader.fail_at(at, "a key is empty");
    if (meta.contains(key)) reader.fail_at(at, fmt::format("the key {} occurs twice", printable(key)));
    MetaValue value = value_of(reader, held);
    meta.emplace(std::move(key), std::move(value));
  }
}

uint64_t alignment_of(const ByteReader& reader, const std::map<std::string, MetaValue>& meta) {
  const auto found = meta.find("general.alignment");
  if (found == meta.end()) return kAlignmentDefault;
  const int64_t* value = std::get_if<int64_t>(&found->second);
  if (!value || *value < 8 || *value > static_cast<int64_t>(kAlignmentLimit) ||
      !std::has_single_bit<uint64_t>(*value)) {
    reader.fail(fmt::format("general.alignment must be a power of two from 8 to {}", kAlignmentLimit));
  }
  return *value;
}

// Rows and columns of `info` from the dimensions in the file (fastest first).
void read_dims(ByteReader& reader, TensorInfo& info) {
  const uint64_t at = reader.offset();
  const uint32_t dims = reader.value<uint32_t>("a tensor's number of dimensions");
  const std::string name = printable(info.name);
  if (dims < 1 || dims > 4)
    reader.fail_at(at, fmt::format("the tensor {} has {} dimensions; 1 to 4 exist", name, dims));
  uint64_t sizes[4] = {1, 1, 1, 1};
  uint64_t elements = 1;
  for (uint32_t d = 0; d < dims; ++d) {
    sizes[d] = reader.value<uint64_t>("a tensor's dimensions");
    if (sizes[d] == 0) reader.fail_at(at, fmt::format("the tensor {} is empty: dimension {} is 0", name, d));
    if (__builtin_mul_overflow(elements, sizes[d], &elements) || elements > INT64_MAX) {
      reader.fail_at(at, fmt::format("the dimensions of the tensor {} overflow", name));
    }
  }
  if (sizes[3] != 1) {
    reader.fail_at(at, fmt::format("the tensor {} is {} x {} x {} x {}: tensors of more than three dimensions "
                                   "(convolutions) are not read",
                                   name, sizes[0], sizes[1], sizes[2], sizes[3]));
  }
  info.cols = static_cast<int64_t>(sizes[0]);
  info.rows = static_cast<int64_t>(sizes[1] * sizes[2]);
  info.stacked = static_cast<int64_t>(sizes[2]);
}

void read_type(ByteReader& reader, TensorInfo& info) {
  const uint64_t at = reader.offset();
  const uint32_t number = reader.value<uint32_t>("a tensor's type");
  const std::optional<DType> dtype = dtype_of_ggml(number);
  if (!dtype) {
    reader.fail_at(at, fmt::format("the tensor {} is of {}; known types: {}", printable(info.name),
                                   ggml_type_name(number), known_ggml_types()));
  }
  info.dtype = *dtype;
  const DTypeInfo& facts = spillway::info(*dtype);
  if (info.cols % facts.block_elements != 0) {
    reader.fail_at(at, fmt::format("the tensor {} has rows of {} elements, not a multiple of {}'s {}",
                                   printable(info.name), info.cols, facts.name, facts.block_elements));
  }
  const uint64_t row = static_cast<uint64_t>(info.cols) / facts.block_elements;
  if (__builtin_mul_overflow(row * info.rows, static_cast<uint64_t>(facts.block_bytes), &info.extent.bytes)) {
    reader.fail_at(at, fmt::format("the size of the tensor {} overflows", printable(info.name)));
  }
}

// Offsets still relative to the data's start.
ParsedTensor read_tensor(ByteReader& reader, uint32_t index, uint64_t alignment) {
  ParsedTensor tensor;
  tensor.record_at = reader.offset();
  tensor.info.name = reader.text(kNameBytes, "a tensor's name");
  if (tensor.info.name.empty()) reader.fail_at(tensor.record_at, "a tensor has no name");
  read_dims(reader, tensor.info);
  read_type(reader, tensor.info);
  const uint64_t at = reader.offset();
  tensor.info.extent.file = index;
  tensor.info.extent.offset = reader.value<uint64_t>("a tensor's offset");
  if (tensor.info.extent.offset % alignment != 0) {
    reader.fail_at(at, fmt::format("the tensor {} begins at offset {}, not a multiple of the alignment {}",
                                   printable(tensor.info.name), tensor.info.extent.offset, alignment));
  }
  return tensor;
}

// Makes offsets absolute; each tensor inside the file, none over another.
void place_tensors(const ByteReader& reader, uint64_t file_bytes, uint64_t alignment,
                   std::vector<ParsedTensor>& tensors) {
  const uint64_t data_start = align_up(reader.offset(), alignment);
  std::vector<const ParsedTensor*> by_offset;
  for (ParsedTensor& tensor : tensors) {
    Extent& extent = tensor.info.extent;
    uint64_t end = 0;
    if (__builtin_add_overflow(extent.offset, data_start, &extent.offset) ||
        __builtin_add_overflow(extent.offset, extent.bytes, &end)) {
      reader.fail_at(tensor.record_at,
                     fmt::format("the offset of the tensor {} overflows", printable(tensor.info.name)));
    }
    if (end > file_bytes) {
      reader.fail_at(tensor.record_at,
                     fmt::format("the tensor {} ends at byte {}, but the file has {} bytes: it is truncated or lies",
                                 printable(tensor.info.name), end, file_bytes));
    }
    by_offset.push_back(&tensor);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const ParsedTensor* a, const ParsedTensor* b) { return a->info.extent.offset < b->info.extent.offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const ParsedTensor& before = *by_offset[i - 1];
    const ParsedTensor& after = *by_offset[i];
    if (before.info.extent.offset + before.info.extent.bytes > after.info.extent.offset) {
      reader.fail_at(after.record_at,
                     fmt::format("the tensors {} and {} overlap at byte {}", printable(before.info.name),
                                 printable(after.info.name), after.info.extent.offset));
    }
  }
}

}  // namespace

GgufHeader read_gguf_header(const File& file, uint32_t index) {
  ByteReader reader(file, kHeaderLimit);
  const Counts counts = read_preamble(reader);
  GgufHeader header;
  read_meta(reader, counts.keys, header.meta);
  const uint64_t alignment = alignment_of(reader, header.meta);
  header.tensors.reserve(counts.tensors);
  for (uint64_t i = 0; i < counts.tensors; ++i) header.tensors.push_back(read_tensor(reader, index, alignment));
  place_tensors(reader, file.bytes(), alignment, header.tensors);
  return header;
}

}  // namespace spillway

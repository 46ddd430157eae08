#include "loader/gguf_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>

#include "memory/extent.h"

namespace spillway {
namespace {

constexpr uint64_t kChunkBytes = 4 << 20;

// Type numbers of the GGUF specification.
constexpr uint32_t kU8 = 0, kU16 = 2, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10,
                   kF64 = 12;

uint32_t ggml_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0;
    case DType::f16:
      return 1;
    case DType::q4_0:
      return 2;
    case DType::q4_1:
      return 3;
    case DType::q5_0:
      return 6;
    case DType::q5_1:
      return 7;
    case DType::q8_0:
      return 8;
    case DType::q2_k:
      return 10;
    case DType::q3_k:
      return 11;
    case DType::q4_k:
      return 12;
    case DType::q5_k:
      return 13;
    case DType::q6_k:
      return 14;
    case DType::iq4_nl:
      return 20;
    case DType::iq4_xs:
      return 23;
    case DType::i32:
      return 26;
    case DType::bf16:
      return 30;
  }
  SPILLWAY_CHECK(false);
}

class HeaderBytes {
 public:
  template <class T>
  void put(T value) {
    static_assert(std::is_arithmetic_v<T>);
    raw(&value, sizeof value);
  }
  void text(const std::string& value) {
    put<uint64_t>(value.size());
    raw(value.data(), value.size());
  }
  void pad(uint64_t to) { bytes_.resize(align_up(bytes_.size(), to)); }
  std::vector<std::byte> take() { return std::move(bytes_); }

  void value(const GgufValue& any) {
    std::visit([this](const auto& one) { this->one(one); }, any);
  }

 private:
  void raw(const void* data, size_t bytes) {
    const auto* from = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), from, from + bytes);
  }
  template <class T>
  void scalar(uint32_t type, T one) {
    put(type);
    put(one);
  }
  void one(bool v) { scalar(kBool, static_cast<uint8_t>(v)); }
  void one(uint8_t v) { scalar(kU8, v); }
  void one(uint16_t v) { scalar(kU16, v); }
  void one(uint32_t v) { scalar(kU32, v); }
  void one(int32_t v) { scalar(kI32, v); }
  void one(uint64_t v) { scalar(kU64, v); }
  void one(float v) { scalar(kF32, v); }
  void one(double v) { scalar(kF64, v); }
  void one(const std::string& v) {
    put(kString);
    text(v);
  }
  void array(uint32_t type, uint64_t count) {
    put(kArray);
    put(type);
    put(count);
  }
  void one(const std::vector<std::string>& v) {
    array(kString, v.size());
    for (const std::string& s : v) text(s);
  }
  void one(const std::vector<int32_t>& v) {
    array(kI32, v.size());
    raw(v.data(), v.size() * sizeof v[0]);
  }
  void one(const std::vector<float>& v) {
    array(kF32, v.size());
    raw(v.data(), v.size() * sizeof v[0]);
  }

  std::vector<std::byte> bytes_;
};

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(ErrorKind::io, fmt::format("{}: {}: {}", path, what, std::strerror(errno)));
}

void write_all(int descriptor, const std::string& path, const std::byte* data, uint64_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t done = pwrite(descriptor, data, bytes, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail(path, "cannot write");
    data += done;
    bytes -= static_cast<uint64_t>(done);
    offset += static_cast<uint64_t>(done);
  }
}

// Rows of one tensor that go to one place of the file.
struct Chunk {
  const GgufTensor* tensor;
  int64_t first_row;
  int64_t rows;
  uint64_t offset;
};

std::string part_path(const std::string& path, int part, int parts) {
  if (parts == 1) return path;
  const std::string stem = path.ends_with(".gguf") ? path.substr(0, path.size() - 5) : path;
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, part + 1, parts);
}

}  // namespace

GgufWriter::GgufWriter(GgufOptions options) : options_(options) {
  SPILLWAY_CHECK(options.parts >= 1 && options.threads >= 1 && std::has_single_bit(options.alignment));
  if (options.alignment != 32) set("general.alignment", options.alignment);
}

void GgufWriter::set(const std::string& key, GgufValue value) {
  for (auto& [known, old] : meta_) {
    if (known == key) {
      old = std::move(value);
      return;
    }
  }
  meta_.emplace_back(key, std::move(value));
}

void GgufWriter::add(GgufTensor tensor) {
  const int block = info(tensor.dtype).block_elements;
  if (tensor.cols <= 0 || tensor.cols % block != 0) {
    throw Error(ErrorKind::usage, fmt::format("{}: rows of {} elements do not divide into blocks of {} ({})",
                                              tensor.name, tensor.cols, block, info(tensor.dtype).name));
  }
  SPILLWAY_CHECK(tensor.rows >= 1 && (!tensor.vector || tensor.rows == 1));
  tensors_.push_back(std::move(tensor));
}

uint64_t GgufWriter::tensor_bytes() const {
  uint64_t total = 0;
  for (const GgufTensor& tensor : tensors_) total += tensor.bytes();
  return total;
}

// A part ends with the tensor that passes its share of the bytes; every part has at least one tensor.
std::pair<size_t, size_t> GgufWriter::tensors_of(int part) const {
  const auto parts = static_cast<size_t>(options_.parts);
  if (tensors_.size() < parts) {
    throw Error(ErrorKind::usage, fmt::format("{} tensors cannot be split into {} parts", tensors_.size(), parts));
  }
  const uint64_t total = tensor_bytes();
  size_t begin = 0;
  uint64_t passed = 0;
  for (size_t p = 0;; ++p) {
    size_t end = begin;
    const size_t last = tensors_.size() - (parts - 1 - p);  // leaves one tensor for each later part
    do {
      passed += tensors_[end++].bytes();
    } while (end < last && (p + 1 == parts || passed < total / parts * (p + 1)));
    if (p == static_cast<size_t>(part)) return {begin, end};
    begin = end;
  }
}

std::vector<std::byte> GgufWriter::header(int part) const {
  const auto [begin, end] = tensors_of(part);
  auto meta = part == 0 ? meta_ : decltype(meta_){};
  if (options_.parts > 1) {
    if (part != 0 && options_.alignment != 32) meta.emplace_back("general.alignment", options_.alignment);
    meta.emplace_back("split.no", static_cast<uint16_t>(part));
    meta.emplace_back("split.count", static_cast<uint16_t>(options_.parts));
    meta.emplace_back("split.tensors.count", static_cast<int32_t>(tensors_.size()));
  }
  HeaderBytes out;
  out.put<uint32_t>(0x46554747);  // "GGUF"
  out.put(options_.version);
  out.put<uint64_t>(end - begin);
  out.put<uint64_t>(meta.size());
  for (const auto& [key, value] : meta) {
    out.text(key);
    out.value(value);
  }
  uint64_t offset = 0;
  for (size_t i = begin; i < end; ++i) {
    const GgufTensor& tensor = tensors_[i];
    out.text(tensor.name);
    out.put<uint32_t>(tensor.vector ? 1 : tensor.stacked > 1 ? 3 : 2);
    out.put<uint64_t>(static_cast<uint64_t>(tensor.cols));
    if (!tensor.vector) out.put<uint64_t>(static_cast<uint64_t>(tensor.rows / tensor.stacked));
    if (tensor.stacked > 1) out.put<uint64_t>(static_cast<uint64_t>(tensor.stacked));
    out.put<uint32_t>(ggml_type(tensor.dtype));
    out.put<uint64_t>(offset);
    offset += align_up(tensor.bytes(), options_.alignment);
  }
  out.pad(options_.alignment);
  return out.take();
}

void GgufWriter::write_part(const std::string& path, int part, const Fill& fill) const {
  const std::vector<std::byte> head = header(part);
  const auto [begin, end] = tensors_of(part);
  std::vector<Chunk> chunks;
  uint64_t offset = head.size();
  for (size_t i = begin; i < end; ++i) {
    const GgufTensor& tensor = tensors_[i];
    const uint64_t stride = row_bytes(tensor.dtype, tensor.cols);
    const int64_t step = std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes / stride));
    for (int64_t row = 0; row < tensor.rows; row += step) {
      chunks.push_back({&tensor, row, std::min(step, tensor.rows - row), offset + static_cast<uint64_t>(row) * stride});
    }
    offset += align_up(tensor.bytes(), options_.alignment);
  }
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) fail(path, "cannot create");
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  auto work = [&] {
    try {
      std::vector<std::byte> buffer;
      for (size_t i; (i = next++) < chunks.size();) {
        const Chunk& chunk = chunks[i];
        buffer.resize(static_cast<uint64_t>(chunk.rows) * row_bytes(chunk.tensor->dtype, chunk.tensor->cols));
        fill(*chunk.tensor, chunk.first_row, chunk.rows, buffer.data());
        write_all(descriptor, path, buffer.data(), buffer.size(), chunk.offset);
      }
    } catch (...) {
      next = chunks.size();
      std::lock_guard lock(mutex);
      failure = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  try {
    write_all(descriptor, path, head.data(), head.size(), 0);
    if (ftruncate(descriptor, static_cast<off_t>(offset)) != 0) fail(path, "cannot set its size");
    const size_t helpers = std::min<size_t>(chunks.size(), static_cast<size_t>(options_.threads)) - 1;
    for (size_t i = 0; i < helpers; ++i) threads.emplace_back(work);
  } catch (...) {
    next = chunks.size();
    std::lock_guard lock(mutex);
    failure = std::current_exception();
  }
  work();
  for (std::thread& thread : threads) thread.join();
  close(descriptor);
  if (failure) {
    unlink(path.c_str());
    std::rethrow_exception(failure);
  }
}

std::string GgufWriter::write(const std::string& path, const Fill& fill) const {
  const std::string suffix = fmt::format(".{}.tmp", getpid());
  auto name = [&](int part) { return part_path(path, part, options_.parts); };
  int part = 0;
  try {
    for (; part < options_.parts; ++part) write_part(name(part) + suffix, part, fill);
  } catch (...) {
    while (part-- > 0) unlink((name(part) + suffix).c_str());
    throw;
  }
  for (part = 0; part < options_.parts; ++part) {
    if (std::rename((name(part) + suffix).c_str(), name(part).c_str()) != 0) fail(name(part), "cannot rename to");
  }
  return name(0);
}

}  // namespace spillway

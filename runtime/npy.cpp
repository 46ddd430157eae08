#include "runtime/npy.h"

#include <fmt/format.h>

#include <bit>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr size_t kHeaderBytes = 128;  // a multiple of 64, and room for any shape
constexpr size_t kBufferBytes = 1 << 20;

std::string header(int64_t rows, int64_t cols) {
  constexpr size_t kPreambleBytes = 10;
  std::string text("\x93NUMPY\x01\x00", 8);
  text += static_cast<char>(kHeaderBytes - kPreambleBytes);  // two bytes, little-endian
  text += '\0';
  text += fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, cols);
  SPILLWAY_CHECK(text.size() < kHeaderBytes);
  text.resize(kHeaderBytes - 1, ' ');
  return text + '\n';
}

static_assert(std::endian::native == std::endian::little, "floats are written as they lie");

}  // namespace

NpyWriter::NpyWriter(const std::string& path, int64_t cols) : file_(path), cols_(cols), buffer_(header(0, cols)) {
  SPILLWAY_CHECK(cols > 0);
}

void NpyWriter::append(std::span<const float> rows) {
  SPILLWAY_CHECK(rows.size() % static_cast<size_t>(cols_) == 0);
  rows_ += static_cast<int64_t>(rows.size()) / cols_;
  const std::string_view bytes(reinterpret_cast<const char*>(rows.data()), rows.size_bytes());
  if (buffer_.size() + bytes.size() > kBufferBytes) flush();
  if (bytes.size() >= kBufferBytes) {
    file_.write(bytes);
  } else {
    buffer_ += bytes;
  }
}

void NpyWriter::finish() {
  flush();
  file_.write_at(0, header(rows_, cols_));
  file_.commit();
}

void NpyWriter::flush() {
  file_.write(buffer_);
  buffer_.clear();
}

}  // namespace spillway

// The part of NumPy's .npy format that logits need: float32, C order, two dimensions.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace spillway {

class NpyWriter {
 public:
  NpyWriter(const std::string& path, int64_t rows, int64_t cols) : path_(path), file_(std::fopen(path.c_str(), "wb")) {
    if (!file_) throw std::runtime_error(path + ": cannot create");
    std::string text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                       std::to_string(cols) + "), }";
    text.resize((10 + text.size() + 1 + 63) / 64 * 64 - 11, ' ');
    text += '\n';
    const auto length = static_cast<uint16_t>(text.size());
    write("\x93NUMPY\x01\x00", 8);
    write(&length, 2);
    write(text.data(), text.size());
  }
  NpyWriter(const NpyWriter&) = delete;
  NpyWriter& operator=(const NpyWriter&) = delete;
  ~NpyWriter() {
    if (file_) std::fclose(file_);
  }
  void append(const float* values, size_t count) { write(values, count * sizeof(float)); }
  void close() {
    if (std::fclose(std::exchange(file_, nullptr)) != 0) throw std::runtime_error(path_ + ": cannot write");
  }

 private:
  void write(const void* data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) throw std::runtime_error(path_ + ": cannot write");
  }
  std::string path_;
  std::FILE* file_;
};

class NpyReader {
 public:
  explicit NpyReader(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) throw std::runtime_error(path + ": cannot open");
    char magic[8];
    uint16_t length = 0;
    read(magic, 8);
    read(&length, 2);
    if (std::memcmp(magic, "\x93NUMPY\x01", 7) != 0) throw std::runtime_error(path + ": not a .npy file of version 1");
    std::string text(length, '\0');
    read(text.data(), length);
    long long shape[2] = {};
    const size_t at = text.find("'shape':");
    if (text.find("'<f4'") == std::string::npos || text.find("'fortran_order': False") == std::string::npos ||
        at == std::string::npos || std::sscanf(text.c_str() + at, "'shape': (%lld, %lld)", &shape[0], &shape[1]) != 2) {
      throw std::runtime_error(path + ": not float32 of two dimensions: " + text);
    }
    rows_ = shape[0];
    cols_ = shape[1];
  }
  NpyReader(const NpyReader&) = delete;
  NpyReader& operator=(const NpyReader&) = delete;
  ~NpyReader() { std::fclose(file_); }

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  void next(std::vector<float>& row) {
    row.resize(static_cast<size_t>(cols_));
    read(row.data(), row.size() * sizeof(float));
  }

 private:
  void read(void* into, size_t bytes) {
    if (std::fread(into, 1, bytes, file_) != bytes) throw std::runtime_error(path_ + ": ends early");
  }
  std::string path_;
  std::FILE* file_;
  int64_t rows_ = 0, cols_ = 0;
};

}  // namespace spillway

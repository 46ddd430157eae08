// NpyReader: a .npy file of logits, row by row: version 1, float32, C order, two dimensions (runtime/npy.h writes
// them).
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace spillway {

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

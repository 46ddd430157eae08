// NpyWriter: a float32 matrix in NumPy's format (NEP 1, version 1.0), row by row, without knowing how many there will
// be.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "kernels/whole_file.h"

namespace spillway {

class NpyWriter {
 public:
  // Rows of `cols` floats. The file appears with finish(), whole, or not at all. Throws Error(io) naming the path.
  NpyWriter(const std::string& path, int64_t cols);
  // Whole rows: a multiple of `cols` floats.
  void append(std::span<const float> rows);
  // Writes the number of rows into the header and gives the file its name.
  void finish();
  int64_t rows() const { return rows_; }

 private:
  void flush();

  WholeFile file_;
  int64_t cols_;
  int64_t rows_ = 0;
  std::string buffer_;
};

}  // namespace spillway

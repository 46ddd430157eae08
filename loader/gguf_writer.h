// GgufWriter: writes GGUF files (version 2 or 3, one part or several). Tensor bytes are asked
// for chunk by chunk while the file is written, by several threads, so a file may be larger than memory.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/view.h"

namespace spillway {

using GgufValue = std::variant<bool, uint8_t, uint16_t, uint32_t, int32_t, uint64_t, float, double, std::string,
                               std::vector<std::string>, std::vector<int32_t>, std::vector<float>>;

struct GgufTensor {
  std::string name;
  DType dtype = DType::f32;
  int64_t rows = 1;     // output features
  int64_t cols = 0;     // input features, contiguous
  int64_t stacked = 1;  // matrices that share the rows evenly; above 1: a dimension of its own in the file
  bool vector = false;  // one dimension in the file instead of two; rows is 1

  uint64_t bytes() const { return static_cast<uint64_t>(rows) * row_bytes(dtype, cols); }
};

struct GgufOptions {
  uint32_t version = 3;
  uint32_t alignment =
      32;         // of tensor data, bytes; a power of two. Written as general.alignment unless it is the default
  int parts = 1;  // more than one: FILE-00001-of-0000N.gguf, as llama.cpp's gguf-split names them
  int threads = 2;
};

class GgufWriter {
 public:
  explicit GgufWriter(GgufOptions options = {});

  // In the order of the calls; a key set again keeps its place.
  void set(const std::string& key, GgufValue value);
  // Error(usage) when the columns do not fill whole blocks of the type.
  void add(GgufTensor tensor);

  // Fills rows [first_row, first_row + rows) of a tensor; called from several threads, so it must be a pure function of
  // its arguments.
  using Fill = std::function<void(const GgufTensor& tensor, int64_t first_row, int64_t rows, std::byte* into)>;
  // Writes all parts under temporary names, then renames them. Returns the path of the first part. Error(io) names the
  // file.
  std::string write(const std::string& path, const Fill& fill) const;

  // The bytes before the tensor data of part `part`, padded to the alignment.
  std::vector<std::byte> header(int part) const;
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  uint64_t tensor_bytes() const;

 private:
  std::pair<size_t, size_t> tensors_of(int part) const;  // [first, past the last)
  void write_part(const std::string& path, int part, const Fill& fill) const;

  GgufOptions options_;
  std::vector<std::pair<std::string, GgufValue>> meta_;
  std::vector<GgufTensor> tensors_;
};

}  // namespace spillway

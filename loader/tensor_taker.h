// TensorTaker: takes a checkpoint's tensors by name, each checked for its shape, and in the end refuses what nobody
// took: a tensor that is not computed with is an answer that is wrong.
#pragma once

#include <set>
#include <string>

#include "loader/checkpoint.h"

namespace spillway {

class TensorTaker {
 public:
  TensorTaker(const Checkpoint& checkpoint, std::string family) : checkpoint_(checkpoint), family_(std::move(family)) {}

  // Error(model) names file, offset and tensor.
  TensorInfo matrix(const std::string& name, int64_t rows, int64_t cols);
  // `count` matrices of rows x cols each, one after the other in one tensor (the experts of a GGUF).
  TensorInfo stack(const std::string& name, int64_t count, int64_t rows, int64_t cols);
  // F32, F16 or BF16.
  TensorInfo vector(const std::string& name, int64_t size);
  // An empty one (cols == 0) where there is none.
  TensorInfo vector_if_any(const std::string& name, int64_t size);
  bool has(const std::string& name) const { return checkpoint_.has(name); }
  void refuse_the_rest() const;

 private:
  [[noreturn]] void complain(const TensorInfo& tensor, const std::string& message) const;

  const Checkpoint& checkpoint_;
  std::string family_;
  std::set<std::string> taken_;
};

// Rows [first, first + count) of a tensor, under a name of their own.
TensorInfo rows_of(const TensorInfo& tensor, int64_t first, int64_t count, const char* part);

}  // namespace spillway

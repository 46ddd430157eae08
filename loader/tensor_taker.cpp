#include "loader/tensor_taker.h"

#include <fmt/format.h>

#include "loader/printable.h"

namespace spillway {

TensorInfo TensorTaker::matrix(const std::string& name, int64_t rows, int64_t cols) {
  return stack(name, 1, rows, cols);
}

TensorInfo TensorTaker::stack(const std::string& name, int64_t count, int64_t rows, int64_t cols) {
  const TensorInfo& tensor = checkpoint_.require(name);
  taken_.insert(name);
  const auto shape = [](int64_t matrices, int64_t of_rows, int64_t of_cols) {
    return (matrices == 1 ? "" : fmt::format("{} times ", matrices)) + fmt::format("{} x {}", of_rows, of_cols);
  };
  const int64_t each = tensor.rows / tensor.stacked;
  if (tensor.stacked != count || each != rows || tensor.cols != cols) {
    complain(tensor, fmt::format("is {} (rows x columns), but {} is expected", shape(tensor.stacked, each, tensor.cols),
                                 shape(count, rows, cols)));
  }
  return tensor;
}

TensorInfo TensorTaker::vector(const std::string& name, int64_t size) {
  TensorInfo tensor = matrix(name, 1, size);
  if (tensor.dtype != DType::f32 && tensor.dtype != DType::f16 && tensor.dtype != DType::bf16) {
    complain(tensor, fmt::format("is of type {}; F32, F16 or BF16 is expected", info(tensor.dtype).name));
  }
  return tensor;
}

TensorInfo TensorTaker::vector_if_any(const std::string& name, int64_t size) {
  return has(name) ? vector(name, size) : TensorInfo{};
}

void TensorTaker::refuse_the_rest() const {
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    if (taken_.contains(name)) continue;
    complain(tensor, name.ends_with(".bias")
                         ? fmt::format("is a bias, which the family {} is not known to have", family_)
                         : fmt::format("is no part of the family {} as it is known here", family_));
  }
}

void TensorTaker::complain(const TensorInfo& tensor, const std::string& message) const {
  throw Error(ErrorKind::model,
              fmt::format("{}: at byte {}: the tensor {} {}", checkpoint_.files[tensor.extent.file].path(),
                          tensor.extent.offset, printable(tensor.name), message));
}

TensorInfo rows_of(const TensorInfo& tensor, int64_t first, int64_t count, const char* part) {
  TensorInfo rows = tensor;
  const uint64_t bytes_per_row = row_bytes(tensor.dtype, tensor.cols);
  rows.name = fmt::format("{} ({})", tensor.name, part);
  rows.rows = count;
  rows.extent.offset += first * bytes_per_row;
  rows.extent.bytes = count * bytes_per_row;
  return rows;
}

}  // namespace spillway

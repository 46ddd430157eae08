#include "tests/fuzz/skew_case.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/check.h"
#include "runtime/skew.h"
#include "tests/fuzz/memory_file.h"

namespace spillway {
namespace {

constexpr const char* kFingerprint = "0123456789abcdef";

const ModelSpec& tiny() {
  static const ModelSpec kSpec = [] {
    ModelSpec spec;
    spec.shape.layers = 3;
    spec.shape.hidden = 32;
    spec.shape.heads = 2;
    spec.shape.kv_heads = 1;
    spec.shape.head_dim = 8;
    return spec;
  }();
  return kSpec;
}

void check(const std::vector<float>& values, size_t count) {
  SPILLWAY_CHECK(values.size() == count);
  SPILLWAY_CHECK(std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); }));
}

void use(const Skew& skew, int layer) {
  const ModelShape& shape = tiny().shape;
  for (const int rank : {1, shape.head_dim}) {
    const auto count = static_cast<size_t>(shape.kv_heads) * rank * shape.head_dim;
    for (const HostKeyBasis& basis : {skew.basis(layer, rank), skew.principal_basis(layer, rank)}) {
      check(basis.keys, count);
      check(basis.queries, count);
      check(basis.mean, static_cast<size_t>(shape.kv_heads) * shape.head_dim);
    }
  }
  const TensorInfo& matrix = skew.layers[static_cast<size_t>(layer)].matrix;
  check(skew.bias(layer), matrix.cols == 0 ? 0 : static_cast<size_t>(shape.q_width()));
  if (matrix.cols == 0) return;
  std::vector<std::byte> rows(row_bytes(matrix.dtype, matrix.cols) * static_cast<uint64_t>(matrix.rows));
  skew.read_matrix(layer, 0, rows);
}

}  // namespace

bool try_skew(std::span<const std::byte> bytes) {
  const MemoryFile file(bytes);
  bool opened = false;
  try {
    const Skew skew = open_skew(file.path(), tiny(), kFingerprint);
    opened = true;
    for (int layer = 0; layer < tiny().shape.layers; ++layer) use(skew, layer);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;
  }
  return opened;
}

}  // namespace spillway

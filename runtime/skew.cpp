#include "runtime/skew.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "loader/printable.h"
#include "runtime/skew_file.h"

namespace spillway {
namespace {

[[noreturn]] void refuse(const Checkpoint& checkpoint, const std::string& what) {
  throw Error(ErrorKind::model, fmt::format("{}: {}; spillway calibrate makes it anew", checkpoint.path(), what));
}

TensorInfo expect(const Checkpoint& file, const SkewTensor& tensor) {
  const TensorInfo* found = file.find(tensor.name);
  if (found == nullptr) refuse(file, fmt::format("the tensor {} is missing", tensor.name));
  if (found->dtype != tensor.dtype || found->rows != tensor.rows || found->cols != tensor.cols) {
    refuse(file, fmt::format("the tensor {} is {} [{} x {}], this model's is {} [{} x {}]", tensor.name,
                             info(found->dtype).name, found->rows, found->cols, info(tensor.dtype).name, tensor.rows,
                             tensor.cols));
  }
  return *found;
}

int64_t bounded(const Checkpoint& file, const char* key, int64_t least, int64_t most) {
  const int64_t value = file.integer(key);
  if (value < least || value > most) refuse(file, fmt::format("{} is {}, not {} to {}", key, value, least, most));
  return value;
}

QueryGuess guess_of(const Checkpoint& file) {
  const std::string name = file.text(kSkewGuess);
  for (size_t i = 0; i < std::size(kQueryGuessNames); ++i) {
    if (name == kQueryGuessNames[i]) return static_cast<QueryGuess>(i);
  }
  refuse(file, fmt::format("{} is {}, not gain or ridge", kSkewGuess, printable(name)));
}

std::vector<float> read_floats(const Checkpoint& file, const TensorInfo& tensor, int64_t first_row, int64_t rows) {
  std::vector<float> values(static_cast<size_t>(rows * tensor.cols));
  file.files[tensor.extent.file].read(tensor.extent.offset + first_row * row_bytes(DType::f32, tensor.cols),
                                      std::as_writable_bytes(std::span(values)));
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    refuse(file, fmt::format("the tensor {} has values that are not finite", tensor.name));
  }
  return values;
}

// The first `rank` rows of each head.
std::vector<float> leading(const Checkpoint& file, const TensorInfo& tensor, int rank) {
  const int64_t heads = tensor.rows / tensor.cols;
  std::vector<float> values;
  values.reserve(static_cast<size_t>(heads * rank * tensor.cols));
  for (int64_t head = 0; head < heads; ++head) {
    const std::vector<float> rows = read_floats(file, tensor, head * tensor.cols, rank);
    values.insert(values.end(), rows.begin(), rows.end());
  }
  return values;
}

}  // namespace

std::string skew_path(const std::string& folder, const std::string& fingerprint, int ahead) {
  return fmt::format("{}/skew/{}-ahead{}.gguf", folder, fingerprint, ahead);
}

std::vector<SkewTensor> skew_tensors(const ModelShape& shape, int layer, bool foretold) {
  const auto name = [&](const char* part) { return fmt::format("{}.{}", layer, part); };
  const int64_t directions = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  std::vector<SkewTensor> tensors;
  if (foretold) {
    tensors.push_back({name("query.weight"), &SkewLayer::matrix, matrix_type(shape), shape.q_width(), shape.hidden});
    tensors.push_back({name("query.bias"), &SkewLayer::bias, DType::f32, 1, shape.q_width()});
  }
  tensors.push_back({name("directions.key"), &SkewLayer::keys, DType::f32, directions, shape.head_dim});
  tensors.push_back({name("directions.query"), &SkewLayer::queries, DType::f32, directions, shape.head_dim});
  tensors.push_back({name("mean.key"), &SkewLayer::mean, DType::f32, shape.kv_heads, shape.head_dim});
  tensors.push_back({name("directions.principal"), &SkewLayer::principal, DType::f32, directions, shape.head_dim});
  return tensors;
}

Skew open_skew(const std::string& path, const ModelSpec& spec, const std::string& fingerprint) {
  Skew skew;
  skew.checkpoint = open_gguf(path);
  const Checkpoint& file = skew.checkpoint;
  if (file.files.size() != 1 || file.text("general.type", "") != kSkewType) refuse(file, "not a file of skew");
  if (file.integer(kSkewVersion) != kSkewFormat) {
    refuse(file, fmt::format("format {} of skew, {} is read", file.integer(kSkewVersion), kSkewFormat));
  }
  skew.fingerprint = file.text(kSkewFingerprint);
  if (skew.fingerprint != fingerprint) {
    refuse(file, fmt::format("made for the model {}, this one is {}", printable(skew.fingerprint), fingerprint));
  }
  skew.text_name = file.text(kSkewTextName);
  skew.text_hash = file.text(kSkewTextHash);
  skew.context = static_cast<int>(bounded(file, kSkewContext, 1, 1 << 30));
  skew.ahead = static_cast<int>(bounded(file, kSkewAhead, 1, kMostAhead));
  skew.guess = guess_of(file);
  for (int layer = 0; layer < spec.shape.layers; ++layer) {
    const bool foretold = skew.guess == QueryGuess::ridge && skew.source(layer) != layer;
    SkewLayer& one = skew.layers.emplace_back();
    for (const SkewTensor& tensor : skew_tensors(spec.shape, layer, foretold)) {
      one.*tensor.member = expect(file, tensor);
    }
  }
  return skew;
}

Skew skew_to_come(const ModelSpec& spec, int ahead) {
  Skew skew;
  skew.ahead = ahead;
  for (int layer = 0; layer < spec.shape.layers; ++layer) {
    SkewLayer& one = skew.layers.emplace_back();
    for (const SkewTensor& tensor : skew_tensors(spec.shape, layer, skew.source(layer) != layer)) {
      TensorInfo& there = one.*tensor.member;
      there.dtype = tensor.dtype;
      there.rows = tensor.rows;
      there.cols = tensor.cols;
      there.extent.bytes = static_cast<uint64_t>(tensor.rows) * row_bytes(tensor.dtype, tensor.cols);
    }
  }
  return skew;
}

HostKeyBasis Skew::basis(int layer, int rank) const {
  const SkewLayer& one = layers[layer];
  SPILLWAY_CHECK(rank > 0 && rank <= one.keys.cols);
  return {leading(checkpoint, one.keys, rank), leading(checkpoint, one.queries, rank),
          read_floats(checkpoint, one.mean, 0, one.mean.rows)};
}

HostKeyBasis Skew::principal_basis(int layer, int rank) const {
  const SkewLayer& one = layers[layer];
  SPILLWAY_CHECK(rank > 0 && rank <= one.principal.cols);
  HostKeyBasis basis;
  basis.keys = basis.queries = leading(checkpoint, one.principal, rank);
  basis.mean.resize(static_cast<size_t>(one.mean.rows * one.mean.cols));
  return basis;
}

void Skew::read_matrix(int layer, int64_t first_row, std::span<std::byte> into) const {
  const TensorInfo& matrix = layers[layer].matrix;
  const uint64_t stride = row_bytes(matrix.dtype, matrix.cols);
  SPILLWAY_CHECK(into.size() % stride == 0 && first_row * stride + into.size() <= matrix.extent.bytes);
  checkpoint.files[matrix.extent.file].read(matrix.extent.offset + first_row * stride, into);
}

std::vector<float> Skew::bias(int layer) const {
  const TensorInfo& bias = layers[layer].bias;
  if (bias.cols == 0) return {};
  return read_floats(checkpoint, bias, 0, 1);
}

}  // namespace spillway

#include "runtime/skew_solver.h"

#include <algorithm>
#include <cmath>

#include "kernels/reference/dequantize.h"
#include "runtime/key_basis.h"
#include "runtime/query_ridge.h"
#include "runtime/skew_file.h"

namespace spillway {
namespace {

constexpr float kStrengths[] = {0.03f, 0.1f, 0.3f, 1.0f};
constexpr float kUncompared = 0.1f;  // where the text is too short for halves

// A row of a tensor as doubles.
Eigen::VectorXd read_row(const Checkpoint& checkpoint, const TensorInfo& tensor, int64_t row) {
  std::vector<std::byte> bytes(row_bytes(tensor.dtype, tensor.cols));
  checkpoint.files[tensor.extent.file].read(tensor.extent.offset + row * bytes.size(), bytes);
  Eigen::VectorXd values(tensor.cols);
  load_row(tensor.dtype, bytes.data(), tensor.cols, values.data());
  return values;
}

// How the model itself computes a layer's query from a normalised input.
struct OwnLayer {
  Eigen::VectorXf gain, offset;  // of the attention norm; no offset where it has none
  RowMatrixXf weight;            // [hidden x outputs], the gain in it
  std::vector<bool> usable;      // inputs that the gain lets through

  OwnLayer(const Model& model, int layer) {
    constexpr float kLeastGain = 1e-3f;  // of the mean magnitude: what is corrected is divided by the gain
    const LayerTensors& tensors = model.spec.layers[layer];
    gain = read_row(model.checkpoint, tensors.attn_norm, 0).cast<float>().array() + model.spec.norm_offset;
    if (tensors.attn_norm_bias.cols > 0) {
      offset = read_row(model.checkpoint, tensors.attn_norm_bias, 0).cast<float>();
    }
    weight.resize(tensors.q.cols, tensors.q.rows);
    for (int64_t row = 0; row < tensors.q.rows; ++row) {
      weight.col(row) = read_row(model.checkpoint, tensors.q, row).cast<float>().cwiseProduct(gain);
    }
    const float least = kLeastGain * gain.cwiseAbs().mean();
    for (Eigen::Index i = 0; i < gain.size(); ++i) usable.push_back(std::abs(gain[i]) > least);
  }
};

std::vector<float> by_rows(const std::vector<Eigen::MatrixXd>& directions) {
  std::vector<float> rows;
  for (const Eigen::MatrixXd& head : directions) {
    for (Eigen::Index j = 0; j < head.cols(); ++j) {
      for (Eigen::Index i = 0; i < head.rows(); ++i) rows.push_back(static_cast<float>(head(i, j)));
    }
  }
  return rows;
}

void solve_directions(const LayerSums& sums, SolvedLayer& out) {
  std::vector<Eigen::MatrixXd> queries, keys, principal;
  for (size_t head = 0; head < sums.queries.size(); ++head) {
    const Eigen::VectorXd mean = sums.key_sums[head] / sums.positions;
    const Eigen::MatrixXd centred = sums.keys[head] - sums.positions * mean * mean.transpose();
    KeyBasis basis = two_gram_basis(sums.queries[head], centred);
    queries.push_back(std::move(basis.queries));
    keys.push_back(std::move(basis.keys));
    const Eigen::Index rows = sums.sample[head].rows() / LayerSums::kSampledPositions * sums.sampled;
    principal.push_back(principal_directions(sums.queries[head], sums.sample[head].topRows(rows).cast<double>()));
    for (Eigen::Index i = 0; i < mean.size(); ++i) out.mean.push_back(static_cast<float>(mean[i]));
  }
  out.queries = by_rows(queries);
  out.keys = by_rows(keys);
  out.principal = by_rows(principal);
}

void store_matrix(const QueryMap& map, const OwnLayer& own, DType type, SolvedLayer& out) {
  const Eigen::Index inputs = map.weight.rows(), outputs = map.weight.cols();
  const uint64_t stride = row_bytes(type, inputs);
  out.matrix.resize(static_cast<size_t>(outputs) * stride);
  out.bias.resize(static_cast<size_t>(outputs));
  Eigen::VectorXf row(inputs);
  for (Eigen::Index o = 0; o < outputs; ++o) {
    for (Eigen::Index i = 0; i < inputs; ++i) row[i] = own.usable[i] ? map.weight(i, o) / own.gain[i] : 0.0f;
    out.bias[o] = own.offset.size() == 0 ? map.bias[o] : map.bias[o] - own.offset.dot(row);
    store_row(type, row.data(), inputs, out.matrix.data() + static_cast<uint64_t>(o) * stride);
  }
}

void choose_strength(const LayerSums& sums, const OwnQuery& own, SolvedLayer& out) {
  out.strength = kUncompared;
  if (sums.halves[0].rows == 0 || sums.halves[1].rows == 0) return;
  const std::vector<double> errors = cross_validate(sums.halves[0], sums.halves[1], own, kStrengths);
  const auto best = std::min_element(errors.begin(), errors.end() - 1);
  out.strength = kStrengths[best - errors.begin()];
  out.ridge_error = *best;
  out.gain_error = errors.back();
}

}  // namespace

SolvedLayer solve_layer(const Model& model, int layer, LayerSums& sums) {
  SolvedLayer out;
  solve_directions(sums, out);
  if (sums.halves.empty()) return out;
  const OwnLayer own(model, layer);
  const OwnQuery query{own.weight, sums.shift, own.usable};
  choose_strength(sums, query, out);
  sums.halves[0] += sums.halves[1];
  sums.halves.pop_back();
  store_matrix(fit_query(sums.halves[0], query, out.strength), own, matrix_type(model.spec.shape), out);
  sums.halves.clear();
  return out;
}

uint64_t solving_bytes(const ModelShape& shape) {
  const auto inputs = static_cast<uint64_t>(shape.hidden), outputs = static_cast<uint64_t>(shape.q_width());
  return (3 * inputs * inputs + 5 * inputs * outputs) * sizeof(float);
}

}  // namespace spillway

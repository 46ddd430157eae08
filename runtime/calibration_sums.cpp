#include "runtime/calibration_sums.h"

#include <algorithm>
#include <cmath>

#include "memory/extent.h"

namespace spillway {
namespace {

constexpr int kSampledPositions = LayerSums::kSampledPositions;

using RowsOfFloats = Eigen::Map<const RowMatrixXf>;

RowsOfFloats rows_of(const std::byte* data, int rows, int cols) {
  return {reinterpret_cast<const float*>(data), rows, cols};
}

// Normalised as the layer's attention norm does before its weights.
void normalise(const ModelSpec& spec, const float* x, Eigen::VectorXd& out) {
  const Eigen::Map<const Eigen::VectorXf> row(x, spec.shape.hidden);
  out = row.cast<double>();
  if (spec.norm == NormKind::layer) out.array() -= out.mean();
  out /= std::sqrt(out.squaredNorm() / static_cast<double>(out.size()) + spec.shape.norm_eps);
}

uint64_t floats(int64_t rows, int64_t cols) { return align_up(static_cast<uint64_t>(rows * cols) * sizeof(float), 64); }

}  // namespace

CalibrationSums::CalibrationSums(const ModelSpec& spec, const CalibrationShape& shape, std::vector<int> layers,
                                 Device& device)
    : spec_(spec),
      shape_(shape),
      layers_(std::move(layers)),
      device_(device),
      index_(static_cast<size_t>(spec.shape.layers), -1),
      cpu_(make_cpu_device({.threads = shape.threads})),
      products_(cpu_->make_compute_stream("calibration")) {
  const ModelShape& model = spec.shape;
  for (const int layer : layers_) {
    index_[layer] = static_cast<int>(sums_.size());
    LayerSums& sums = sums_.emplace_back();
    for (int head = 0; head < model.kv_heads; ++head) {
      sums.queries.push_back(Eigen::MatrixXd::Zero(model.head_dim, model.head_dim));
      sums.keys.push_back(Eigen::MatrixXd::Zero(model.head_dim, model.head_dim));
      sums.key_sums.push_back(Eigen::VectorXd::Zero(model.head_dim));
      sums.sample.emplace_back(kSampledPositions * model.group(), model.head_dim);
    }
    if (!foretells(layer)) continue;
    for (int half = 0; half < 2; ++half) sums.halves.emplace_back(model.hidden, model.q_width());
  }
  const uint64_t input = floats(shape.chunk, model.hidden), query = floats(shape.chunk, model.q_width());
  block_bytes_ = input * (shape.ahead + 1) + 2 * query + floats(shape.chunk, model.kv_width());
  block_ = device.reserve_host(block_bytes_);
  std::byte* at = block_;
  for (int i = 0; i <= shape.ahead; ++i, at += input) inputs_.push_back(at);
  queries_ = at;
  rotated_ = queries_ + query;
  keys_ = rotated_ + query;
  if (!shape.ridge) return;
  inputs_transposed_.resize(static_cast<size_t>(model.hidden) * shape.chunk);
  queries_transposed_.resize(static_cast<size_t>(model.q_width()) * shape.chunk);
  const ModelShape products{.hidden = shape.chunk, .heads = 1, .kv_heads = 1, .head_dim = 8};
  scratch_.resize(cpu_->ops().scratch_bytes(products, model.hidden));
  cpu_->ops().set_scratch({}, scratch_.data(), scratch_.size());
}

CalibrationSums::~CalibrationSums() { device_.release_host(block_, block_bytes_); }

uint64_t CalibrationSums::bytes(const ModelSpec& spec, const CalibrationShape& shape) {
  const auto d = static_cast<uint64_t>(spec.shape.head_dim);
  const uint64_t grams = spec.shape.kv_heads * (2 * d * d + d) * sizeof(double);
  const uint64_t sample = kSampledPositions * sizeof(float) * spec.shape.q_width();
  const uint64_t moments = shape.ridge ? 2 * QueryMoments::bytes(spec.shape.hidden, spec.shape.q_width()) : 0;
  return grams + sample + moments;
}

bool CalibrationSums::foretells(int layer) { return shape_.ridge && source(layer) != layer; }

LayerSums* CalibrationSums::find(int layer) { return index_[layer] < 0 ? nullptr : &sums_[index_[layer]]; }

uint64_t CalibrationSums::copy(Stream& stream, View from, std::byte* to) {
  const uint64_t bytes = static_cast<uint64_t>(from.rows) * from.stride;
  SPILLWAY_CHECK(from.rows <= shape_.chunk && from.stride == row_bytes(from.dtype, from.cols));
  stream.copy(to, from.data, bytes);
  return bytes;
}

uint64_t CalibrationSums::attention_input(Stream& stream, int layer, View x) {
  if (layer == 0) {
    begin_ = seen_;
    seen_ += static_cast<int>(x.rows);
  }
  const int target = layer + shape_.ahead;
  if (target >= spec_.shape.layers || find(target) == nullptr || !foretells(target)) return 0;
  return copy(stream, x, inputs_[layer % inputs_.size()]);
}

uint64_t CalibrationSums::queries(Stream& stream, int layer, View q) {
  if (find(layer) == nullptr || !foretells(layer)) return 0;
  return copy(stream, q, queries_);
}

uint64_t CalibrationSums::rotated(Stream& stream, int layer, View q, View k) {
  LayerSums* sums = find(layer);
  if (sums == nullptr) return 0;
  const uint64_t bytes = copy(stream, q, rotated_) + copy(stream, k, keys_);
  stream.synchronize();
  add_grams(*sums, static_cast<int>(q.rows));
  if (foretells(layer)) add_moments(*sums, layer, static_cast<int>(q.rows));
  return bytes;
}

void CalibrationSums::add_grams(LayerSums& sums, int rows) {
  const ModelShape& model = spec_.shape;
  const auto all_queries = rows_of(rotated_, rows, model.q_width()), all_keys = rows_of(keys_, rows, model.kv_width());
  const int step = std::max(1, (shape_.tokens + kSampledPositions - 1) / kSampledPositions);
  int sampled = sums.sampled;
  for (int head = 0; head < model.kv_heads; ++head) {
    sampled = sums.sampled;
    for (int member = 0; member < model.group(); ++member) {
      const int column = (head * model.group() + member) * model.head_dim;
      const Eigen::MatrixXd queries = all_queries.middleCols(column, model.head_dim).cast<double>();
      sums.queries[head].noalias() += queries.transpose() * queries;
    }
    const Eigen::MatrixXd keys = all_keys.middleCols(head * model.head_dim, model.head_dim).cast<double>();
    sums.keys[head].noalias() += keys.transpose() * keys;
    sums.key_sums[head] += keys.colwise().sum();
    const int group = head * model.group() * model.head_dim;
    for (int row = (step - begin_ % step) % step; row < rows && sampled < kSampledPositions; row += step, ++sampled) {
      for (int member = 0; member < model.group(); ++member) {
        sums.sample[head].row(sampled * model.group() + member) =
            all_queries.row(row).segment(group + member * model.head_dim, model.head_dim);
      }
    }
  }
  sums.sampled = sampled;
  sums.positions += rows;
}

void CalibrationSums::add_moments(LayerSums& sums, int layer, int rows) {
  const int hidden = spec_.shape.hidden, outputs = spec_.shape.q_width();
  const auto inputs = rows_of(inputs_[source(layer) % inputs_.size()], rows, hidden);
  const auto queries = rows_of(queries_, rows, outputs);
  using Transposed = Eigen::Map<RowMatrixXf>;
  Transposed x(inputs_transposed_.data(), hidden, rows), y(queries_transposed_.data(), outputs, rows);
  Eigen::VectorXd normal(hidden);
  for (int row = 0; row < rows; ++row) {
    normalise(spec_, inputs.row(row).data(), normal);
    x.col(row) = normal.cast<float>();
  }
  if (sums.shift.size() == 0) sums.shift = x.rowwise().mean();
  x.colwise() -= sums.shift;
  y = queries.transpose();
  QueryMoments& half = sums.halves[begin_ < shape_.tokens / 2 ? 0 : 1];
  half.rows += rows;
  half.x += x.cast<double>().rowwise().sum();
  half.y += y.cast<double>().rowwise().sum();
  half.yy += y.cast<double>().cwiseAbs2().rowwise().sum();
  const auto view = [&](float* data, int64_t r, int64_t c) { return View::dense(data, DType::f32, r, c); };
  const View left = view(x.data(), hidden, rows);
  const MatmulPart parts[] = {{left, view(half.xx.data(), hidden, hidden), true},
                              {view(y.data(), outputs, rows), view(half.xy.data(), hidden, outputs), true}};
  cpu_->ops().matmul(*products_, left, parts);
  products_->synchronize();
}

}  // namespace spillway

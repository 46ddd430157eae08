#include "tests/support/rehearsed_mass.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/reference/dequantize.h"
#include "runtime/rotation.h"

namespace spillway {
namespace {

constexpr int kSinks = 4, kNewest = 32;

RowMatrixXf dequantised(const std::vector<std::byte>& bytes, DType type, int64_t rows, int64_t cols) {
  RowMatrixXf out(rows, cols);
  std::vector<double> row(static_cast<size_t>(cols));
  for (int64_t r = 0; r < rows; ++r) {
    load_row(type, bytes.data() + r * row_bytes(type, cols), cols, row.data());
    for (int64_t c = 0; c < cols; ++c) out(r, c) = static_cast<float>(row[c]);
  }
  return out;
}

RowMatrixXf tensor(const Checkpoint& file, const TensorInfo& info) {
  std::vector<std::byte> bytes(info.extent.bytes);
  file.files[info.extent.file].read(info.extent.offset, bytes);
  return dequantised(bytes, info.dtype, info.rows, info.cols);
}

}  // namespace

RowMatrixXf foretell(const AttentionTrace& trace, const Skew& skew, int layer, const MassChoice& choice) {
  const Model& model = trace.model;
  const int source = skew.source(layer);
  if (choice.query == Foretold::truly || source == layer) return trace.layers[layer].queries;
  const LayerTensors& tensors = model.spec.layers[layer];
  RowMatrixXf x = trace.layers[source].inputs;
  // The own matrix of "plain" InfiniGen sees the earlier layer's norm; all else the layer's own.
  const LayerTensors& norm = model.spec.layers[choice.principal ? source : layer];
  RowMatrixXf gain = tensor(model.checkpoint, norm.attn_norm);
  gain.array() += model.spec.norm_offset;
  for (Eigen::Index row = 0; row < x.rows(); ++row) {
    if (model.spec.norm == NormKind::layer) x.row(row).array() -= x.row(row).mean();
    const float square = x.row(row).squaredNorm() / static_cast<float>(x.cols());
    x.row(row) = x.row(row).cwiseProduct(gain.row(0)) / std::sqrt(square + model.spec.shape.norm_eps);
    if (norm.attn_norm_bias.cols > 0) x.row(row) += tensor(model.checkpoint, norm.attn_norm_bias).row(0);
  }
  const bool own = choice.query == Foretold::by_own_matrix;
  const RowMatrixXf weight =
      own ? tensor(model.checkpoint, tensors.q) : tensor(skew.checkpoint, skew.layers[layer].matrix);
  RowMatrixXf q = x * weight.transpose();
  if (!choice.biased) return q;
  if (!own) return q.rowwise() + tensor(skew.checkpoint, skew.layers[layer].bias).row(0);
  if (tensors.q_bias.cols > 0) q.rowwise() += tensor(model.checkpoint, tensors.q_bias).row(0);
  return q;
}

namespace {

void rotate(const ModelSpec& spec, int first, RowMatrixXf& q) {
  if (spec.ropes.empty()) return;
  const ModelShape& shape = spec.shape;
  const Rotation rotation(spec.ropes[0], static_cast<int>(first + q.rows()));
  RowMatrixXf table(q.rows(), shape.rope_dims);
  rotation.fill(first, static_cast<int>(q.rows()), table.data());
  const int pairs = shape.rope_dims / 2;
  for (Eigen::Index row = 0; row < q.rows(); ++row) {
    for (int head = 0; head < shape.heads; ++head) {
      float* at = q.row(row).data() + head * shape.head_dim;
      for (int i = 0; i < pairs; ++i) {
        const bool halves = shape.rotation == RotationStyle::halves;
        float &a = at[halves ? i : 2 * i], &b = at[halves ? i + pairs : 2 * i + 1];
        const float c = table(row, 2 * i), s = table(row, 2 * i + 1), x = a, y = b;
        a = x * c - y * s;
        b = x * s + y * c;
      }
    }
  }
}

// Partial keys [tokens x rank], as they would be read back: codes of `bits` with a scale and a least value in fp16.
RowMatrixXf quantised(RowMatrixXf partial, int bits) {
  const auto half = [](float value) { return f16_to_f32(f32_to_f16(value)); };
  for (Eigen::Index row = 0; row < partial.rows(); ++row) {
    const float least = half(partial.row(row).minCoeff());
    const float scale = half((partial.row(row).maxCoeff() - least) / static_cast<float>((1 << std::min(bits, 15)) - 1));
    for (Eigen::Index i = 0; i < partial.cols(); ++i) {
      float& value = partial(row, i);
      value = bits >= 16   ? half(value)
              : scale == 0 ? least
                           : least + scale * std::clamp(std::nearbyint((value - least) / scale), 0.0f,
                                                        static_cast<float>((1 << bits) - 1));
    }
  }
  return partial;
}

void softmax(Eigen::RowVectorXf& scores) {
  scores = (scores.array() - scores.maxCoeff()).exp();
  scores /= scores.sum();
}

// Of one KV head: the foretold scores' basis.
struct HeadBasis {
  RowMatrixXf keys, queries;  // [rank x d]
  Eigen::RowVectorXf mean;
};

HeadBasis head_basis(const Skew& skew, int layer, const MassChoice& choice, int head, int kv_heads, int d) {
  const int layers = static_cast<int>(skew.layers.size());
  const int from = (layer + choice.basis_shift) % layers;
  const HostKeyBasis all = choice.principal ? skew.principal_basis(from, choice.rank) : skew.basis(from, choice.rank);
  const int of = (head + choice.head_shift) % kv_heads;
  const auto rows = [&](const std::vector<float>& values, int count) {
    return RowMatrixXf(Eigen::Map<const RowMatrixXf>(values.data() + static_cast<size_t>(of) * count * d, count, d));
  };
  return {rows(all.keys, choice.rank), rows(all.queries, choice.rank), rows(all.mean, 1).row(0)};
}

double mass_of_head(const AttentionTrace& trace, const Skew& skew, const MassChoice& choice, int layer, int head,
                    const RowMatrixXf& foretold) {
  const ModelShape& shape = trace.model.spec.shape;
  const AttentionTrace::Layer& at = trace.layers[layer];
  const int d = shape.head_dim, group = shape.group();
  const RowMatrixXf keys = at.keys.middleCols(head * d, d);
  HeadBasis basis;
  RowMatrixXf partial;
  if (!choice.truth) {
    basis = head_basis(skew, layer, choice, head, shape.kv_heads, d);
    partial = quantised((keys.rowwise() - basis.mean) * basis.keys.transpose(), choice.bits);
  }
  double sum = 0;
  for (int row = 0; row < trace.last_rows; ++row) {
    const int tokens = trace.tokens - trace.last_rows + row + 1;
    Eigen::RowVectorXf truth = Eigen::RowVectorXf::Zero(tokens), weights = truth;
    for (int member = 0; member < group; ++member) {
      const int column = (head * group + member) * d;
      Eigen::RowVectorXf scores =
          trace.model.spec.attention_scale * at.rotated.row(row).segment(column, d) * keys.topRows(tokens).transpose();
      softmax(scores);
      truth += scores;
      if (choice.truth) continue;
      const int seen = std::max(0, row - choice.input_lag);
      const int from = choice.interleaved ? (member * shape.kv_heads + head) * d : column;
      const Eigen::RowVectorXf q = foretold.row(seen).segment(from, d) * basis.queries.transpose();
      scores = trace.model.spec.attention_scale * q * partial.topRows(tokens).transpose();
      if (!choice.raw_scores) softmax(scores);
      weights += scores;
    }
    if (choice.truth) weights = truth;
    weights.head(kSinks).setConstant(1e9f);
    weights.tail(kNewest).setConstant(1e9f);
    const int count = std::max(kSinks + kNewest, static_cast<int>(choice.share * tokens));
    std::vector<int> order(static_cast<size_t>(tokens));
    std::iota(order.begin(), order.end(), 0);
    std::nth_element(order.begin(), order.begin() + count, order.end(),
                     [&](int a, int b) { return weights[a] > weights[b]; });
    double kept = 0;
    for (int i = 0; i < count; ++i) kept += truth[order[i]];
    sum += kept / group;
  }
  return sum / trace.last_rows;
}

}  // namespace

AttentionTrace::AttentionTrace(const Model& of, int tokens_, int last_rows_)
    : model(of), tokens(tokens_), last_rows(last_rows_), layers(of.spec.layers.size()) {
  const ModelShape& shape = of.spec.shape;
  for (Layer& layer : layers) {
    layer.keys.resize(tokens, shape.kv_width());
    layer.inputs.resize(last_rows, shape.hidden);
    layer.queries.resize(last_rows, shape.q_width());
    layer.rotated.resize(last_rows, shape.q_width());
  }
}

// Rows of the pass, of which `into` keeps the last of the text.
void AttentionTrace::keep(Stream& stream, View rows, int first, RowMatrixXf& into) {
  stream.synchronize();  // a CPU's memory is read in place
  for (int64_t row = 0; row < rows.rows; ++row) {
    const int64_t to = begin_ + row - first;
    if (to >= 0) std::copy_n(rows.f32(row), rows.cols, into.row(to).data());
  }
}

uint64_t AttentionTrace::attention_input(Stream& stream, int layer, View x) {
  if (layer == 0) {
    begin_ = seen_;
    seen_ += static_cast<int>(x.rows);
  }
  keep(stream, x, tokens - last_rows, layers[layer].inputs);
  return 0;
}

uint64_t AttentionTrace::queries(Stream& stream, int layer, View q) {
  keep(stream, q, tokens - last_rows, layers[layer].queries);
  return 0;
}

uint64_t AttentionTrace::rotated(Stream& stream, int layer, View q, View k) {
  keep(stream, q, tokens - last_rows, layers[layer].rotated);
  keep(stream, k, 0, layers[layer].keys);
  return 0;
}

double kept_mass(const AttentionTrace& trace, const Skew& skew, const MassChoice& choice) {
  const ModelShape& shape = trace.model.spec.shape;
  double sum = 0;
  for (int layer = 2; layer < shape.layers; ++layer) {
    RowMatrixXf foretold;
    if (!choice.truth) {
      foretold = foretell(trace, skew, layer, choice);
      if (choice.turned) rotate(trace.model.spec, trace.tokens - trace.last_rows + choice.turned_to, foretold);
    }
    for (int head = 0; head < shape.kv_heads; ++head) sum += mass_of_head(trace, skew, choice, layer, head, foretold);
  }
  return sum / ((shape.layers - 2) * shape.kv_heads);
}

}  // namespace spillway

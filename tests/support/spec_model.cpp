#include "tests/support/spec_model.h"

#include <filesystem>
#include <fstream>

#include "memory/kv/layout.h"

namespace spillway {
namespace {

// Hands out extents one after the other.
class Extents {
 public:
  TensorInfo tensor(const std::string& name, DType dtype, int64_t rows, int64_t cols) {
    TensorInfo info{.name = name, .dtype = dtype, .rows = rows, .cols = cols, .extent = {}};
    info.extent = {0, end_, static_cast<uint64_t>(rows) * row_bytes(dtype, cols)};
    end_ = align_up(end_ + info.extent.bytes, 32);
    return info;
  }
  ExpertMatrix stack(DType dtype, int experts, int64_t rows, int64_t cols) {
    const Extent all = tensor("experts", dtype, experts * rows, cols).extent;
    ExpertMatrix matrix{.dtype = dtype, .rows = rows, .cols = cols, .extents = {}};
    const uint64_t each = all.bytes / static_cast<uint64_t>(experts);
    for (int e = 0; e < experts; ++e) matrix.extents.push_back({all.file, all.offset + each * e, each});
    return matrix;
  }
  uint64_t end() const { return end_; }

 private:
  uint64_t end_ = 4096 + 1696;  // a header: no tensor lies on a boundary of the drive by chance
};

}  // namespace

SpecModel::SpecModel(const TinyModelOptions& o, const std::string& path) {
  spec.family = "llama";
  spec.name = o.name;
  spec.shape = {.layers = o.layers,
                .hidden = o.hidden,
                .heads = o.heads,
                .kv_heads = o.kv_heads,
                .head_dim = o.head_dim,
                .ffn = o.ffn,
                .experts = o.experts,
                .experts_used = o.experts > 0 ? o.experts_used : 0,
                .expert_ffn = o.experts == 0     ? 0
                              : o.expert_ffn > 0 ? o.expert_ffn
                                                 : o.ffn,
                .vocab = o.vocab,
                .context = o.context,
                .norm_eps = o.norm_eps,
                .rope_dims = o.head_dim};
  const ModelShape& s = spec.shape;
  Extents at;
  spec.token_embedding = at.tensor("token_embd.weight", o.embedding_type.value_or(o.type), s.vocab, s.hidden);
  for (int i = 0; i < s.layers; ++i) {
    LayerTensors layer;
    layer.attn_norm = at.tensor("attn_norm", DType::f32, 1, s.hidden);
    layer.q = at.tensor("attn_q", o.type, s.q_width(), s.hidden);
    layer.k = at.tensor("attn_k", o.type, s.kv_width(), s.hidden);
    layer.v = at.tensor("attn_v", o.type, s.kv_width(), s.hidden);
    layer.attn_out = at.tensor("attn_output", o.type, s.hidden, s.q_width());
    layer.ffn_norm = at.tensor("ffn_norm", DType::f32, 1, s.hidden);
    if (s.experts > 0) {
      layer.router = at.tensor("ffn_gate_inp", DType::f32, s.experts, s.hidden);
      layer.expert_gate = at.stack(o.type, s.experts, s.expert_ffn, s.hidden);
      layer.expert_up = at.stack(o.type, s.experts, s.expert_ffn, s.hidden);
      layer.expert_down = at.stack(o.type, s.experts, s.hidden, s.expert_ffn);
    } else {
      layer.gate = at.tensor("ffn_gate", o.type, s.ffn, s.hidden);
      layer.up = at.tensor("ffn_up", o.type, s.ffn, s.hidden);
      layer.down = at.tensor("ffn_down", o.type, s.hidden, s.ffn);
    }
    layer.from_start = static_cast<int>(spec.layers.size());
    layer.from_end = static_cast<int>(std::min<size_t>(spec.layers.size(), s.layers - 1 - spec.layers.size()));
    spec.layers.push_back(layer);
  }
  spec.output_norm = at.tensor("output_norm", DType::f32, 1, s.hidden);
  spec.tied = o.tied;
  spec.output = o.tied ? spec.token_embedding : at.tensor("output", o.output_type.value_or(o.type), s.vocab, s.hidden);
  spec_bytes_ = at.end();
  std::ofstream(path).flush();
  std::filesystem::resize_file(path, at.end());
  checkpoint.files.push_back(File::open_read(path));
}

uint64_t SpecModel::kv_bytes(int positions) const {
  return KvLayout(spec.shape).row_bytes() * page_rows(positions) * spec.shape.layers;
}

TinyModelOptions random_shape(std::mt19937_64& random) {
  const auto upto = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
  // Of n sizes a small one as often as a large one.
  const auto skewed = [&](int n) { return 1 + upto(1 + upto(n)); };
  const DType types[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1};
  TinyModelOptions o;
  o.layers = skewed(40);
  o.kv_heads = skewed(8);
  o.heads = o.kv_heads * skewed(4);
  o.head_dim = 32 * (1 + upto(4));
  o.hidden = 32 * skewed(64);
  o.ffn = 32 * skewed(160);
  o.vocab = 320 + 32 * skewed(1000);
  o.context = 64 * skewed(512);
  o.type = types[upto(6)];
  if (upto(3) == 0) o.embedding_type = DType::q8_0;
  o.tied = upto(2) == 0;
  return o;
}

}  // namespace spillway

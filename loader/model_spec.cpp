#include "loader/model_spec.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "loader/model_keys.h"
#include "loader/model_shape.h"
#include "loader/printable.h"
#include "loader/tensor_taker.h"

namespace spillway {
namespace {

// Keys that would change the computation in a way that is not known here.
void refuse_unknown_variants(const ModelKeys& keys) {
  // A softmax over all experts, of which the largest are taken, is the one router known.
  if (keys.integer("expert_gating_func", 0, 1 << 16, 1) > 1) {
    keys.refuse(fmt::format("{} is no softmax (1), which alone is known", keys.shown("expert_gating_func")));
  }
  for (const char* part : {"expert_shared_count", "leading_dense_block_count"}) keys.expect_neutral(part, 0.0);
  if (keys.has("expert_weights_scale") && keys.number("expert_weights_scale", -1e-9, 1e6) != 0.0f) {
    keys.expect_neutral("expert_weights_scale", 1.0);  // 0, too, is none
  }
  for (const char* scale : {"logit_scale", "residual_scale", "embedding_scale"}) keys.expect_neutral(scale, 1.0);
  for (const char* cap : {"attn_logit_softcapping", "final_logit_softcapping"}) keys.expect_neutral(cap, 0.0);
  if (keys.integer("attention.causal", 0, 1, 1) == 0) {
    keys.refuse(fmt::format("attention looks both ways ({} is false); only causal models are known",
                            keys.shown("attention.causal")));
  }
}

class SpecReader {
 public:
  SpecReader(const Checkpoint& checkpoint, const Family& family)
      : family_(family), keys_(checkpoint, family.name), take_(checkpoint, family.name) {}

  ModelSpec read() {
    refuse_unknown_variants(keys_);
    spec_.family = family_.name;
    spec_.norm = family_.norm;
    spec_.activation = family_.activation;
    spec_.shape = read_model_shape(keys_, family_);
    read_scales();
    read_ends();
    if (!family_.learned_positions) read_ropes();
    for (int layer = 0; layer < spec_.shape.layers; ++layer) read_layer(layer);
    take_.refuse_the_rest();
    return std::move(spec_);
  }

 private:
  void read_scales() {
    const ModelShape& shape = spec_.shape;
    if (family_.scaled_embedding) spec_.embedding_scale = std::sqrt(static_cast<float>(shape.hidden));
    spec_.norm_offset = keys_.number("norm_offset", -1.0, 1.0, 0.0);
    spec_.expert_weights_norm = keys_.integer("expert_weights_norm", 0, 1, 1) != 0;
    // 0, or none: from the head's size.
    const double scale = keys_.has("attention.scale") ? keys_.number("attention.scale", -1e-9, 1e6) : 0.0;
    spec_.attention_scale =
        scale > 0 ? static_cast<float>(scale) : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  }

  void read_ends() {
    const ModelShape& shape = spec_.shape;
    spec_.token_embedding = take_.matrix("token_embd.weight", shape.vocab, shape.hidden);
    spec_.output_norm = take_.vector("output_norm.weight", shape.hidden);
    if (family_.norm == NormKind::layer) spec_.output_norm_bias = take_.vector("output_norm.bias", shape.hidden);
    spec_.tied = !take_.has("output.weight");
    spec_.output = spec_.tied ? spec_.token_embedding : take_.matrix("output.weight", shape.vocab, shape.hidden);
    if (!family_.learned_positions) return;
    spec_.position_offset = keys_.integer("position_offset", 0, 1 << 16, 0);
    spec_.position_embedding =
        take_.matrix("position_embd.weight", int64_t{shape.context} + spec_.position_offset, shape.hidden);
  }

  void read_ropes() {
    const double base = keys_.number("rope.freq_base", 0.0, 1e12, 10000.0);
    spec_.ropes.push_back(read_rope(keys_, take_, base, spec_.shape.rope_dims));
    if (family_.local_rope) {  // layers with a window rotate by a base of their own, never scaled
      const double local_base = keys_.number("rope.freq_base_swa", 0.0, 1e12, 10000.0);
      spec_.ropes.push_back(plain_rope(local_base, spec_.shape.rope_dims));
    }
    spec_.shape.rope_tables = static_cast<int>(spec_.ropes.size());
  }

  void read_window(int number, LayerTensors& layer) {
    const int window = keys_.integer("attention.sliding_window", 0, 1 << 30, 0);
    if (window == 0 || !slides(number)) return;
    layer.window = window;
    spec_.shape.window = window;
    layer.rope = static_cast<int>(spec_.ropes.size()) - 1;
  }

  // The pattern is a list of all layers, or a number n: every n-th layer sees all positions, those between slide.
  bool slides(int number) const {
    const char* name = "attention.sliding_window_pattern";
    if (keys_.has(name)) {
      if (const auto* array = std::get_if<MetaArray>(&keys_.checkpoint().meta.at(keys_.key(name)))) {
        const auto* flags = std::get_if<std::vector<int64_t>>(array);
        if (flags == nullptr || flags->size() != static_cast<size_t>(spec_.shape.layers)) {
          keys_.refuse(fmt::format("{} is no list of one number a layer", keys_.shown(name)));
        }
        return (*flags)[number] != 0;
      }
    }
    const int pattern = keys_.integer(name, 0, 1024, family_.window_pattern);
    return pattern <= 1 || (number + 1) % pattern != 0;
  }

  void read_layer(int number) {
    const std::string block = fmt::format("blk.{}.", number);
    LayerTensors layer;
    const int hidden = spec_.shape.hidden;
    layer.attn_norm = take_.vector(block + "attn_norm.weight", hidden);
    layer.ffn_norm = take_.vector(block + "ffn_norm.weight", hidden);
    if (family_.norm == NormKind::layer) {
      layer.attn_norm_bias = take_.vector(block + "attn_norm.bias", hidden);
      layer.ffn_norm_bias = take_.vector(block + "ffn_norm.bias", hidden);
    }
    if (family_.post_norms) {
      layer.attn_post_norm = take_.vector(block + "post_attention_norm.weight", hidden);
      layer.ffn_post_norm = take_.vector(block + "post_ffw_norm.weight", hidden);
    }
    read_attention(block, layer);
    if (spec_.shape.experts > 0 && take_.has(block + "ffn_gate_inp.weight")) {
      read_experts(block, layer);
    } else {
      read_feed_forward(block, layer);
    }
    read_window(number, layer);
    layer.from_start = number;
    layer.from_end = std::min(number, spec_.shape.layers - 1 - number);
    spec_.layers.push_back(std::move(layer));
  }

  void read_attention(const std::string& block, LayerTensors& layer) {
    const ModelShape& shape = spec_.shape;
    const int q = shape.q_width(), kv = shape.kv_width();
    if (family_.fused) {
      const TensorInfo all = take_.matrix(block + "attn_qkv.weight", int64_t{q} + 2 * kv, shape.hidden);
      layer.q = rows_of(all, 0, q, "q");
      layer.k = rows_of(all, q, kv, "k");
      layer.v = rows_of(all, int64_t{q} + kv, kv, "v");
    } else {
      layer.q = take_.matrix(block + "attn_q.weight", q, shape.hidden);
      layer.k = take_.matrix(block + "attn_k.weight", kv, shape.hidden);
      layer.v = take_.matrix(block + "attn_v.weight", kv, shape.hidden);
    }
    layer.q_bias = take_.vector_if_any(block + "attn_q.bias", q);
    layer.k_bias = take_.vector_if_any(block + "attn_k.bias", kv);
    layer.v_bias = take_.vector_if_any(block + "attn_v.bias", kv);
    if (family_.head_norms) {
      layer.q_norm = take_.vector(block + "attn_q_norm.weight", shape.head_dim);
      layer.k_norm = take_.vector(block + "attn_k_norm.weight", shape.head_dim);
    }
    layer.attn_out = take_.matrix(block + "attn_output.weight", shape.hidden, q);
    layer.attn_out_bias = take_.vector_if_any(block + "attn_output.bias", shape.hidden);
  }

  void read_feed_forward(const std::string& block, LayerTensors& layer) {
    const ModelShape& shape = spec_.shape;
    if (family_.fused) {
      const TensorInfo both = take_.matrix(block + "ffn_up.weight", 2 * int64_t{shape.ffn}, shape.hidden);
      layer.gate = rows_of(both, 0, shape.ffn, "gate");
      layer.up = rows_of(both, shape.ffn, shape.ffn, "up");
    } else {
      const std::string gate = family_.gated ? "ffn_gate" : "ffn_up";
      layer.gate = take_.matrix(block + gate + ".weight", shape.ffn, shape.hidden);
      layer.gate_bias = take_.vector_if_any(block + gate + ".bias", shape.ffn);
    }
    if (family_.gated && !family_.fused) {
      layer.up = take_.matrix(block + "ffn_up.weight", shape.ffn, shape.hidden);
      layer.up_bias = take_.vector_if_any(block + "ffn_up.bias", shape.ffn);
    }
    layer.down = take_.matrix(block + "ffn_down.weight", shape.hidden, shape.ffn);
    layer.down_bias = take_.vector_if_any(block + "ffn_down.bias", shape.hidden);
  }

  void read_experts(const std::string& block, LayerTensors& layer) {
    const ModelShape& shape = spec_.shape;
    layer.router = take_.matrix(block + "ffn_gate_inp.weight", shape.experts, shape.hidden);
    layer.expert_gate = experts_of(block + "ffn_gate", shape.expert_ffn, shape.hidden);
    layer.expert_up = experts_of(block + "ffn_up", shape.expert_ffn, shape.hidden);
    layer.expert_down = experts_of(block + "ffn_down", shape.hidden, shape.expert_ffn);
  }

  // All experts in one tensor, or a tensor to each.
  ExpertMatrix experts_of(const std::string& name, int64_t rows, int64_t cols) {
    const int count = spec_.shape.experts;
    const auto one = [&](int expert) { return fmt::format("{}.{}.weight", name, expert); };
    ExpertMatrix matrix{.rows = rows, .cols = cols, .extents = {}};
    const bool apart = take_.has(one(0));
    const TensorInfo first =
        apart ? take_.matrix(one(0), rows, cols) : take_.stack(name + "_exps.weight", count, rows, cols);
    matrix.dtype = first.dtype;
    const uint64_t bytes = row_bytes(first.dtype, cols) * rows;
    for (int expert = 0; expert < count; ++expert) {
      if (apart && expert > 0) {
        const TensorInfo tensor = take_.matrix(one(expert), rows, cols);
        if (tensor.dtype != first.dtype) {
          keys_.refuse(fmt::format("the experts of a layer are of several types: {} is {}, {} is {}", first.name,
                                   info(first.dtype).name, tensor.name, info(tensor.dtype).name));
        }
        matrix.extents.push_back(tensor.extent);
      } else {
        matrix.extents.push_back({first.extent.file, first.extent.offset + bytes * expert, bytes});
      }
    }
    return matrix;
  }

  const Family& family_;
  ModelKeys keys_;
  TensorTaker take_;
  ModelSpec spec_;
};

}  // namespace

ModelSpec ModelSpec::stretch(int first, int last, bool head) const {
  SPILLWAY_CHECK(0 <= first && first <= last && last <= shape.layers);
  ModelSpec part = *this;
  part.layers.assign(layers.begin() + first, layers.begin() + last);
  part.shape.layers = last - first;
  if (first > 0) part.token_embedding = part.position_embedding = {};
  if (!head) part.output = part.output_norm = part.output_norm_bias = {};
  return part;
}

ModelSpec read_model_spec(const Checkpoint& checkpoint) {
  const std::string name = checkpoint.text("general.architecture");
  const Family* family = find_family(name);
  if (family == nullptr) {
    throw Error(ErrorKind::model, fmt::format("{}: the model family \"{}\" is not known; known families: {}",
                                              checkpoint.path(), printable(name), known_families()));
  }
  ModelSpec spec = SpecReader(checkpoint, *family).read();
  spec.name = checkpoint.text("general.name", std::filesystem::path(checkpoint.path()).stem().string());
  return spec;
}

}  // namespace spillway

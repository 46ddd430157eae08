#include "loader/model_spec.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "loader/printable.h"

namespace spillway {
namespace {

[[noreturn]] void refuse(const Checkpoint& checkpoint, const std::string& message) {
  throw Error(ErrorKind::model, fmt::format("{}: {}", checkpoint.path(), message));
}

// Reads the llama.* keys, each held to a range that sizes computed from it cannot overflow.
class LlamaKeys {
 public:
  explicit LlamaKeys(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  int integer(const char* name, int64_t lowest, int64_t highest, std::optional<int64_t> fallback = {}) const {
    const int64_t value = checkpoint_.integer(key(name), fallback);
    if (value < lowest || value > highest) {
      refuse(checkpoint_, fmt::format("{} is {}; {} to {} are possible", key(name), value, lowest, highest));
    }
    return static_cast<int>(value);
  }

  float number(const char* name, double above, double highest, std::optional<double> fallback = {}) const {
    const double value = checkpoint_.number(key(name), fallback);
    if (!(value > above && value <= highest)) {
      refuse(checkpoint_,
             fmt::format("{} is {}; it must lie above {} and not above {}", key(name), value, above, highest));
    }
    return static_cast<float>(value);
  }

  // For keys that change the computation in a way not known here: absent, or `neutral`.
  void expect_neutral(const char* name, double neutral) const {
    if (!checkpoint_.meta.contains(key(name))) return;
    const double value = checkpoint_.number(key(name));
    if (value != neutral)
      refuse(checkpoint_, fmt::format("{} is {}, which is not known; only {} is", key(name), value, neutral));
  }

  std::string text(const char* name, const char* fallback) const { return checkpoint_.text(key(name), fallback); }

 private:
  static std::string key(const char* name) { return std::string("llama.") + name; }
  const Checkpoint& checkpoint_;
};

void refuse_unknown_variants(const Checkpoint& checkpoint, const LlamaKeys& keys) {
  if (keys.integer("expert_count", 0, 1 << 20, 0) > 0) {
    refuse(checkpoint, "a mixture of experts (llama.expert_count is above 0); only dense llama models are known");
  }
  const std::string scaling = keys.text("rope.scaling.type", "linear");
  if (scaling != "none") {
    if (scaling != "linear") {
      refuse(checkpoint,
             fmt::format("the rotation is scaled by \"{}\" (llama.rope.scaling.type); known: none, and linear "
                         "with factor 1",
                         printable(scaling)));
    }
    keys.expect_neutral("rope.scaling.factor", 1.0);
  }
  keys.expect_neutral("rope.scale_linear", 1.0);
  keys.expect_neutral("rope.scaling.attn_factor", 1.0);
  keys.expect_neutral("attention.scale", 0.0);  // 0: from the head's size
  for (const char* scale : {"logit_scale", "residual_scale", "embedding_scale"}) keys.expect_neutral(scale, 1.0);
  if (keys.integer("attention.causal", 0, 1, 1) == 0) {
    refuse(checkpoint, "attention looks both ways (llama.attention.causal is false); only causal models are known");
  }
}

int head_dim_of(const Checkpoint& checkpoint, const LlamaKeys& keys, const ModelShape& shape) {
  const int divided = shape.hidden % shape.heads == 0 ? shape.hidden / shape.heads : 0;
  const int dim = keys.integer("attention.key_length", 1, 1 << 16, divided);
  const int values = keys.integer("attention.value_length", 1, 1 << 16, divided);
  if (dim != values)
    refuse(checkpoint, fmt::format("keys have {} elements a head, values {}: they must agree", dim, values));
  if (dim % 8 != 0 || dim > 256) {
    refuse(checkpoint, fmt::format("heads have {} elements; multiples of 8 up to 256 are known", dim));
  }
  return dim;
}

ModelShape read_shape(const Checkpoint& checkpoint, const LlamaKeys& keys, const TensorInfo& embedding) {
  ModelShape shape;
  shape.layers = keys.integer("block_count", 1, 1024);
  shape.hidden = keys.integer("embedding_length", 1, 1 << 18);
  shape.ffn = keys.integer("feed_forward_length", 1, 1 << 20);
  shape.heads = keys.integer("attention.head_count", 1, 4096);
  shape.kv_heads = keys.integer("attention.head_count_kv", 1, 4096, shape.heads);
  if (shape.heads % shape.kv_heads != 0) {
    refuse(checkpoint,
           fmt::format("{} query heads cannot share {} key and value heads evenly", shape.heads, shape.kv_heads));
  }
  shape.head_dim = head_dim_of(checkpoint, keys, shape);
  shape.context = keys.integer("context_length", 1, 1 << 30);
  shape.norm_eps = keys.number("attention.layer_norm_rms_epsilon", 0.0, 1.0);
  shape.rope_base = keys.number("rope.freq_base", 0.0, 1e12, 10000.0);
  shape.rope_dims = keys.integer("rope.dimension_count", 2, shape.head_dim, shape.head_dim);
  if (shape.rope_dims % 2 != 0)
    refuse(checkpoint, fmt::format("llama.rope.dimension_count is odd: {}", shape.rope_dims));
  shape.rotation = RotationStyle::adjacent;
  if (embedding.rows > 1 << 24) refuse(checkpoint, fmt::format("token_embd.weight has {} rows", embedding.rows));
  shape.vocab = static_cast<int>(embedding.rows);
  if (keys.integer("vocab_size", 1, INT32_MAX, shape.vocab) != shape.vocab) {
    refuse(checkpoint, fmt::format("llama.vocab_size differs from the {} rows of token_embd.weight", shape.vocab));
  }
  const auto* tokens = checkpoint.strings("tokenizer.ggml.tokens");
  if (tokens && tokens->size() > static_cast<size_t>(shape.vocab)) {
    refuse(checkpoint, fmt::format("{} tokens, but only {} rows of token_embd.weight", tokens->size(), shape.vocab));
  }
  return shape;
}

// Takes tensors by name, checked, and in the end refuses what nobody took: a tensor that is not computed with is an
// answer that is wrong.
class TensorTaker {
 public:
  explicit TensorTaker(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  TensorInfo matrix(const std::string& name, int64_t rows, int64_t cols) {
    const TensorInfo& tensor = checkpoint_.require(name);
    taken_.insert(name);
    if (tensor.rows != rows || tensor.cols != cols) {
      complain(tensor, fmt::format("is {} x {} (rows x columns), but {} x {} is expected", tensor.rows, tensor.cols,
                                   rows, cols));
    }
    return tensor;
  }

  TensorInfo vector(const std::string& name, int64_t size) {
    TensorInfo tensor = matrix(name, 1, size);
    if (tensor.dtype != DType::f32)
      complain(tensor, fmt::format("is of type {}; F32 is expected", info(tensor.dtype).name));
    return tensor;
  }

  void refuse_the_rest() const {
    for (const auto& [name, tensor] : checkpoint_.tensors) {
      if (taken_.contains(name)) continue;
      complain(tensor, name.ends_with(".bias") ? "is a bias, which the family llama is not known to have"
                                               : "is no part of the family llama as it is known here");
    }
  }

 private:
  [[noreturn]] void complain(const TensorInfo& tensor, const std::string& message) const {
    throw Error(ErrorKind::model,
                fmt::format("{}: at byte {}: the tensor {} {}", checkpoint_.files[tensor.extent.file].path(),
                            tensor.extent.offset, printable(tensor.name), message));
  }

  const Checkpoint& checkpoint_;
  std::set<std::string> taken_;
};

LayerTensors take_layer(TensorTaker& take, const ModelShape& shape, int layer) {
  const std::string block = fmt::format("blk.{}.", layer);
  LayerTensors tensors;
  tensors.attn_norm = take.vector(block + "attn_norm.weight", shape.hidden);
  tensors.q = take.matrix(block + "attn_q.weight", shape.q_width(), shape.hidden);
  tensors.k = take.matrix(block + "attn_k.weight", shape.kv_width(), shape.hidden);
  tensors.v = take.matrix(block + "attn_v.weight", shape.kv_width(), shape.hidden);
  tensors.attn_out = take.matrix(block + "attn_output.weight", shape.hidden, shape.q_width());
  tensors.ffn_norm = take.vector(block + "ffn_norm.weight", shape.hidden);
  tensors.gate = take.matrix(block + "ffn_gate.weight", shape.ffn, shape.hidden);
  tensors.up = take.matrix(block + "ffn_up.weight", shape.ffn, shape.hidden);
  tensors.down = take.matrix(block + "ffn_down.weight", shape.hidden, shape.ffn);
  return tensors;
}

std::vector<float> read_rope_factors(const Checkpoint& checkpoint, TensorTaker& take, const ModelShape& shape) {
  const char* name = "rope_freqs.weight";
  if (!checkpoint.find(name)) return {};
  const TensorInfo tensor = take.vector(name, shape.rope_dims / 2);
  std::vector<float> factors(tensor.cols);
  checkpoint.files[tensor.extent.file].read(tensor.extent.offset, std::as_writable_bytes(std::span(factors)));
  for (const float factor : factors) {
    if (!std::isfinite(factor) || factor <= 0.0f) {
      refuse(checkpoint,
             fmt::format("at byte {}: {} holds {}; factors are positive", tensor.extent.offset, name, factor));
    }
  }
  return factors;
}

ModelSpec read_llama(const Checkpoint& checkpoint) {
  const LlamaKeys keys(checkpoint);
  refuse_unknown_variants(checkpoint, keys);
  ModelSpec spec;
  spec.family = "llama";
  spec.shape = read_shape(checkpoint, keys, checkpoint.require("token_embd.weight"));
  const ModelShape& shape = spec.shape;
  TensorTaker take(checkpoint);
  spec.token_embedding = take.matrix("token_embd.weight", shape.vocab, shape.hidden);
  spec.output_norm = take.vector("output_norm.weight", shape.hidden);
  spec.tied = checkpoint.find("output.weight") == nullptr;
  spec.output = spec.tied ? spec.token_embedding : take.matrix("output.weight", shape.vocab, shape.hidden);
  for (int layer = 0; layer < shape.layers; ++layer) spec.layers.push_back(take_layer(take, shape, layer));
  spec.rope_factors = read_rope_factors(checkpoint, take, shape);
  take.refuse_the_rest();
  return spec;
}

}  // namespace

ModelSpec read_model_spec(const Checkpoint& checkpoint) {
  const std::string family = checkpoint.text("general.architecture");
  if (family != "llama") {
    refuse(checkpoint, fmt::format("the model family \"{}\" is not known; known families: llama", printable(family)));
  }
  ModelSpec spec = read_llama(checkpoint);
  spec.name = checkpoint.text("general.name", std::filesystem::path(checkpoint.path()).stem().string());
  return spec;
}

}  // namespace spillway

#include "loader/model_shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace spillway {
namespace {

int head_dim_of(const ModelKeys& keys, const ModelShape& shape) {
  const int divided = shape.hidden % shape.heads == 0 ? shape.hidden / shape.heads : 0;
  if (divided == 0 && !keys.has("attention.key_length")) {
    keys.refuse(fmt::format("{} is {}, which {} heads ({}) cannot share evenly, and {} is missing",
                            keys.shown("embedding_length"), shape.hidden, shape.heads,
                            keys.shown("attention.head_count"), keys.shown("attention.key_length")));
  }
  const int dim = keys.integer("attention.key_length", 1, 1 << 16, divided);
  const int values = keys.integer("attention.value_length", 1, 1 << 16, divided);
  if (dim != values) keys.refuse(fmt::format("keys have {} elements a head, values {}: they must agree", dim, values));
  if (dim % 8 != 0 || dim > 256) {
    keys.refuse(fmt::format("heads have {} elements; multiples of 8 up to 256 are known", dim));
  }
  return dim;
}

void read_experts(const ModelKeys& keys, const Family& family, ModelShape& shape) {
  const bool always = family.experts == Experts::always;
  const char* count = "expert_count";
  shape.experts = keys.integer(count, always ? 1 : 0, kMostExperts, always ? std::optional<int64_t>() : 0);
  if (shape.experts == 0) return;
  if (family.experts == Experts::none) {
    keys.refuse(fmt::format("a mixture of experts ({} is {}); the family {} is known as dense alone", keys.shown(count),
                            shape.experts, family.name));
  }
  shape.experts_used = keys.integer("expert_used_count", 1, std::min(shape.experts, kMostExpertsUsed));
  // Files of before that key divide the width of the whole among the experts of a token, or say it of each.
  const int64_t width = keys.integer("feed_forward_length", 1, 1 << 20, 1);
  const int64_t share = always ? width / shape.experts_used : width;
  const bool said = keys.has("feed_forward_length");
  shape.expert_ffn =
      keys.integer("expert_feed_forward_length", 1, 1 << 20, said ? std::optional<int64_t>(share) : std::nullopt);
}

void read_vocab(const ModelKeys& keys, ModelShape& shape) {
  const Checkpoint& checkpoint = keys.checkpoint();
  const TensorInfo& embedding = checkpoint.require("token_embd.weight");
  if (embedding.rows > 1 << 24) keys.refuse(fmt::format("{} has {} rows", embedding.name, embedding.rows));
  shape.vocab = static_cast<int>(embedding.rows);
  if (keys.integer("vocab_size", 1, INT32_MAX, shape.vocab) != shape.vocab) {
    keys.refuse(
        fmt::format("{} differs from the {} rows of {}", keys.shown("vocab_size"), shape.vocab, embedding.name));
  }
  const auto* tokens = checkpoint.strings("tokenizer.ggml.tokens");
  if (tokens != nullptr && tokens->size() > static_cast<size_t>(shape.vocab)) {
    keys.refuse(fmt::format("{} tokens, but only {} rows of token_embd.weight", tokens->size(), shape.vocab));
  }
}

}  // namespace

ModelShape read_model_shape(const ModelKeys& keys, const Family& family) {
  ModelShape shape;
  shape.layers = keys.integer("block_count", 1, 1024);
  shape.hidden = keys.integer("embedding_length", 1, 1 << 18);
  read_experts(keys, family, shape);
  const bool mixed = shape.experts > 0;
  shape.ffn =
      keys.integer("feed_forward_length", 1, 1 << 20, mixed ? std::optional<int64_t>(shape.expert_ffn) : std::nullopt);
  shape.heads = keys.integer("attention.head_count", 1, 4096);
  shape.kv_heads = keys.integer("attention.head_count_kv", 1, 4096, shape.heads);
  if (shape.heads % shape.kv_heads != 0) {
    keys.refuse(fmt::format("{} query heads cannot share {} key and value heads evenly", shape.heads, shape.kv_heads));
  }
  shape.head_dim = head_dim_of(keys, shape);
  shape.context = keys.integer("context_length", 1, 1 << 30);
  const bool rms = family.norm == NormKind::rms;
  shape.norm_eps = keys.number(rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", 0.0, 1.0);
  shape.rotation = family.rotation;
  if (family.learned_positions) {
    shape.rope_dims = 0;
    shape.rope_tables = 0;
  } else {
    shape.rope_dims = keys.integer("rope.dimension_count", 2, shape.head_dim, shape.head_dim);
    if (shape.rope_dims % 2 != 0) {
      keys.refuse(fmt::format("{} is odd: {}", keys.shown("rope.dimension_count"), shape.rope_dims));
    }
    // How the file's own matrices are laid out: a GGUF's follow its family, a Hugging Face directory's are never
    // permuted.
    const std::string style = keys.text("rope.style", "");
    if (style == "halves") shape.rotation = RotationStyle::halves;
  }
  read_vocab(keys, shape);
  return shape;
}

}  // namespace spillway

// Models with random weights: tiny ones for tests, real shapes for perf/make_model. The same options give the
// same bytes on every machine.
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <span>
#include <string>

#include "kernels/view.h"

namespace spillway {

// By default a few hundred KB in which head_dim is not hidden / heads, and two query heads share a KV head.
struct TinyModelOptions {
  int layers = 4;
  int hidden = 96;
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 64;
  int ffn = 160;
  int experts = 0;       // above 0: feed-forward parts of a layer (llama: Mixtral)
  int experts_used = 2;  // for a token
  int expert_ffn = 0;    // width of one; 0: ffn
  int vocab = 320;       // at least SyntheticVocab::kSmallest
  int context = 4096;
  std::string family = "llama";              // or qwen3moe: with norms of the heads; or opt
  DType type = DType::f32;                   // of every matrix; norms and routers are f32
  std::optional<DType> more_bits_type = {};  // of attn_v and ffn_down in half of the layers, as in llama.cpp's mixtures
  std::optional<DType> embedding_type = {};  // of token_embd.weight, when it differs
  std::optional<DType> output_type = {};     // of output.weight, when it differs; not for tied models
  bool tied = false;                         // the output matrix is the embedding
  uint64_t seed = 1;
  float norm_eps = 1e-5f;
  float rope_base = 10000.0f;
  bool rope_factors = false;  // a rope_freqs.weight tensor with factors from 1 to 8
  uint32_t gguf_version = 3;
  uint32_t alignment = 32;
  int parts = 1;
  std::string name = "tiny";
};

// As test runners print it.
inline std::ostream& operator<<(std::ostream& out, const TinyModelOptions& options) { return out << options.name; }

// Writes directory/<name>.gguf (or its parts) and returns the path to open. Error(usage) when the shape cannot be
// written.
std::string write_tiny_model(const TinyModelOptions& options, const std::string& directory);
// The same to a path of one's own.
std::string write_model(const TinyModelOptions& options, const std::string& path);

// Of that model the header alone, before a file of holes: its facts can be read, its weights are nowhere. One part.
std::string write_model_outline(const TinyModelOptions& options, const std::string& path);

// The models whose logits, computed by tests/oracle/numpy_llama.py, are kept under tests/runtime/data. Between them:
// every weight type, tied and untied, MHA and GQA, head sizes 64, 80, 96 and 128, two norm epsilons, rotation bases and
// factors.
std::span<const TinyModelOptions> golden_models();

}  // namespace spillway

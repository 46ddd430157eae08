// ModelShape: the plain facts of a model that every folder needs. Knows no file format.
#pragma once

#include <cstdint>

namespace spillway {

// Which elements of a head are turned together (RoPE, arXiv 2104.09864).
enum class RotationStyle : uint8_t {
  adjacent,  // (2i, 2i + 1): Llama weights as GGUF stores them
  halves,    // (i, i + d/2): GPT-NeoX and most later families
};

// The function of a feed-forward part.
enum class Activation : uint8_t {
  silu,  // x / (1 + exp(-x)) (arXiv 1702.03118)
  gelu,  // x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (arXiv 1606.08415, section 2)
  relu,  // max(x, 0)
};

// Of a layer, and of those as many as are chosen for a token.
inline constexpr int kMostExperts = 1024;
inline constexpr int kMostExpertsUsed = 64;

struct ModelShape {
  int layers = 0;
  int hidden = 0;    // width of the residual stream
  int heads = 0;     // query heads
  int kv_heads = 0;  // key and value heads; heads is a multiple of it (GQA)
  int head_dim = 0;
  int ffn = 0;           // inner width of the feed-forward part
  int experts = 0;       // feed-forward parts of a layer, of which a router chooses some for each token; 0: one, dense
  int experts_used = 0;  // chosen for a token
  int expert_ffn = 0;    // inner width of an expert
  int vocab = 0;
  int context = 0;  // positions the model was trained for
  float norm_eps = 1e-5f;
  int rope_dims = 0;    // leading elements of a head that are rotated; 0: none are
  int window = 0;       // the widest of any layer's sliding window; 0: no layer has one
  int rope_tables = 1;  // tables of angles: layers may rotate differently
  RotationStyle rotation = RotationStyle::adjacent;

  int q_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
  int group() const { return heads / kv_heads; }
};

}  // namespace spillway

// ModelShape: the plain facts of a model that every folder needs. Knows no file format.
#pragma once

#include <cstdint>

namespace spillway {

// Which elements of a head are turned together (RoPE, arXiv 2104.09864).
enum class RotationStyle : uint8_t {
  adjacent,  // (2i, 2i + 1): Llama weights as GGUF stores them
  halves,    // (i, i + d/2): GPT-NeoX and most later families
};

struct ModelShape {
  int layers = 0;
  int hidden = 0;    // width of the residual stream
  int heads = 0;     // query heads
  int kv_heads = 0;  // key and value heads; heads is a multiple of it (GQA)
  int head_dim = 0;
  int ffn = 0;  // inner width of the feed-forward part
  int vocab = 0;
  int context = 0;  // positions the model was trained for
  float norm_eps = 1e-5f;
  float rope_base = 10000.0f;
  int rope_dims = 0;  // leading elements of a head that are rotated
  RotationStyle rotation = RotationStyle::adjacent;

  int q_width() const { return heads * head_dim; }
  int kv_width() const { return kv_heads * head_dim; }
  int group() const { return heads / kv_heads; }
};

}  // namespace spillway

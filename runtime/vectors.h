// The vectors of a model (norms and biases): small, always on the device, as float32 whatever the file has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/view.h"
#include "loader/model_spec.h"

namespace spillway {

// f32 [1 x size]; what a model does not have has no data.
struct LayerVectors {
  View attn_norm, attn_norm_bias, q_bias, k_bias, v_bias, q_norm, k_norm, attn_out_bias, attn_post_norm;
  View ffn_norm, ffn_norm_bias, gate_bias, up_bias, down_bias, ffn_post_norm;
};

struct ModelVectors {
  std::vector<LayerVectors> layers;
  View output_norm, output_norm_bias;

  // Bytes of memory that all of them take.
  static uint64_t bytes(const ModelSpec& spec);
  // Views of device memory of that many bytes.
  static ModelVectors cut(const ModelSpec& spec, std::byte* memory);
  // Reads them from the model's files into host memory of that many bytes, in the order in which cut() lays them out. A
  // norm's weights get the family's offset.
  static void read(const ModelSpec& spec, const Checkpoint& checkpoint, std::span<std::byte> memory);
};

}  // namespace spillway

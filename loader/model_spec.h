// ModelSpec: what the tensors of a checkpoint mean.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/shape.h"
#include "loader/checkpoint.h"

namespace spillway {

struct LayerTensors {
  TensorInfo attn_norm, q, k, v, attn_out, ffn_norm, gate, up, down;
};

struct ModelSpec {
  std::string family;  // "llama"
  std::string name;    // general.name, or the file's
  ModelShape shape;
  TensorInfo token_embedding;  // [vocab x hidden]
  TensorInfo output_norm;
  TensorInfo output;  // [vocab x hidden]; the embedding again when tied
  bool tied = false;
  std::vector<LayerTensors> layers;
  std::vector<float> rope_factors;  // divides the frequency of each pair (rope_freqs.weight); empty: none
};

// Error(model) names the file, and for an unknown family the list of known ones; every tensor's shape is checked.
ModelSpec read_model_spec(const Checkpoint& checkpoint);

}  // namespace spillway

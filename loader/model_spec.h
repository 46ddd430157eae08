// ModelSpec: what the tensors of a checkpoint mean.
#pragma once

#include <string>
#include <vector>

#include "kernels/shape.h"
#include "loader/checkpoint.h"
#include "loader/family.h"
#include "loader/rope_spec.h"

namespace spillway {

// The same matrix of each expert of a layer: all of one type and shape, an extent each.
struct ExpertMatrix {
  DType dtype = DType::f32;
  int64_t rows = 0;  // of one
  int64_t cols = 0;
  std::vector<Extent> extents;  // in the order of the experts
};

// A tensor that the model does not have is empty (cols == 0). `gate` is the matrix before the activation function, `up`
// the one beside it in a gated feed-forward part.
struct LayerTensors {
  TensorInfo attn_norm, q, k, v, attn_out, ffn_norm, gate, up, down;
  TensorInfo attn_norm_bias, q_bias, k_bias, v_bias, q_norm, k_norm, attn_out_bias, attn_post_norm;
  TensorInfo ffn_norm_bias, gate_bias, up_bias, down_bias, ffn_post_norm;
  TensorInfo router;  // [experts x hidden], where the layer's feed-forward part is a choice of experts
  ExpertMatrix expert_gate, expert_up, expert_down;
  int window = 0;      // positions that a query sees, its own among them; 0: all before it
  int rope = 0;        // of ModelSpec::ropes
  int from_start = 0;  // layers before it in the model
  int from_end = 0;    // layers between it and the model's nearer end

  bool has_experts() const { return router.cols > 0; }
};

struct ModelSpec {
  std::string family;  // "llama"
  std::string name;    // general.name, or the file's
  ModelShape shape;
  NormKind norm = NormKind::rms;
  Activation activation = Activation::silu;
  float embedding_scale = 1.0f;
  float attention_scale = 1.0f;     // of the scores
  bool expert_weights_norm = true;  // the chosen experts' weights are made to sum to 1
  float norm_offset = 0.0f;         // added to the norms' stored weights
  TensorInfo token_embedding;       // [vocab x hidden]
  TensorInfo position_embedding;    // [positions x hidden], where positions are learned
  int position_offset = 0;          // row of position 0
  TensorInfo output_norm, output_norm_bias;
  TensorInfo output;  // [vocab x hidden]; the embedding again when tied
  bool tied = false;
  std::vector<LayerTensors> layers;
  std::vector<RopeSpec> ropes;  // none where positions are learned

  bool has_embedding() const { return token_embedding.cols > 0; }
  bool has_head() const { return output.cols > 0; }
  // Layers [first, last) as a model of its own, whose layers count from 0: with the embeddings where it begins with the
  // model's first layer, and with the head or not.
  ModelSpec stretch(int first, int last, bool head) const;
};

// Error(model) names the file, and for an unknown family the list of known ones; every tensor's shape is checked.
ModelSpec read_model_spec(const Checkpoint& checkpoint);

}  // namespace spillway

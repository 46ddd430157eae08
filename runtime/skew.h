// Skew: what the rehearsal of a model needs beside its weights: for each layer a few directions that carry the scores
// of queries and keys (the skewing of InfiniGen, arXiv 2406.19707, section 4.2), and the matrix that foretells a
// layer's query from the input of an earlier one. Made by calibration (runtime/calibrate.h), kept as a GGUF file of its
// own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "loader/checkpoint.h"
#include "loader/model_spec.h"

namespace spillway {

// How a layer's query is foretold from x, the layer's own attention norm of an earlier layer's input.
enum class QueryGuess : uint8_t {
  gain,   // x . W_Q^T + b: the model's own matrix
  ridge,  // x . (W_Q + B)^T + b + c, where B and c are regressed on what the model's own matrix gets wrong
};
inline constexpr const char* kQueryGuessNames[] = {"gain", "ridge"};

// Directions of one layer in the layout of PartialKeyBasis (kernels/selection.h), in host memory.
struct HostKeyBasis {
  std::vector<float> keys, queries;  // [kv_heads * rank x head_dim]
  std::vector<float> mean;           // [kv_heads x head_dim]
};

// Where a layer's tensors lie in the file. `matrix`, `bias`: the foretold query, before the norm of heads and before
// the rotation; no columns where the model's own serve (QueryGuess::gain, and a layer that sees its own input).
struct SkewLayer {
  TensorInfo matrix;         // [heads * head_dim x hidden] Q4_0; F32 where its rows are no whole blocks
  TensorInfo bias;           // [1 x heads * head_dim] f32, the model's own bias in it
  TensorInfo keys, queries;  // [kv_heads * head_dim x head_dim] f32: direction j of head h is row h * head_dim + j
  TensorInfo mean;           // [kv_heads x head_dim] f32, of the rotated keys
  TensorInfo principal;  // as keys, of InfiniGen: eigenvectors of the queries' Gram matrix, largest sum of |q| first
};

struct Skew {
  Checkpoint checkpoint;  // of one file; its extents are what the layers name
  std::string fingerprint;
  std::string text_name, text_hash;  // of what it was calibrated on
  int context = 0;                   // positions that were calibrated
  int ahead = 1;                     // layers between the input that foretells a query and the query
  QueryGuess guess = QueryGuess::ridge;
  std::vector<SkewLayer> layers;

  const std::string& path() const { return checkpoint.path(); }
  // The layer whose input foretells the query of `layer`: the first ones see their own.
  int source(int layer) const { return layer < ahead ? layer : layer - ahead; }
  // The first `rank` directions of each KV head: those of both Gram matrices, or InfiniGen's, whose mean is zero.
  HostKeyBasis basis(int layer, int rank) const;
  HostKeyBasis principal_basis(int layer, int rank) const;
  // Rows [first_row, ...) of the layer's matrix, as many as fill `into`; or its bias.
  void read_matrix(int layer, int64_t first_row, std::span<std::byte> into) const;
  std::vector<float> bias(int layer) const;
};

// <folder>/skew/<fingerprint>-ahead<N>.gguf, where a model's skew is kept.
std::string skew_path(const std::string& folder, const std::string& fingerprint, int ahead);

// Reads and checks all of the header; Error(model) names the file and what is wrong: another model's (by fingerprint or
// shape), another format, a tensor that is missing or of another shape.
Skew open_skew(const std::string& path, const ModelSpec& spec, const std::string& fingerprint);

}  // namespace spillway

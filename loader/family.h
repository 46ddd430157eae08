// The model families: in which points of their computation they differ.
#pragma once

#include <string>

#include "kernels/shape.h"

namespace spillway {

enum class NormKind : uint8_t {
  rms,    // arXiv 1910.07467
  layer,  // arXiv 1607.06450, with a bias
};

// Feed-forward parts of which a router chooses some for each token (mixture of experts, arXiv 1701.06538).
enum class Experts : uint8_t { none, possible, always };

struct Family {
  const char* name;  // general.architecture of a GGUF
  RotationStyle rotation = RotationStyle::halves;
  NormKind norm = NormKind::rms;
  Activation activation = Activation::silu;
  bool gated = true;        // feed-forward: down(act(gate(x)) * up(x)); else down(act(up(x)))
  bool head_norms = false;  // queries and keys are normalised head by head, before the rotation
  bool post_norms = false;  // what attention and feed-forward add is normalised first
  bool fused = false;       // q, k, v in one tensor, gate and up in another
  Experts experts = Experts::none;
  bool scaled_embedding = false;   // times sqrt(hidden)
  bool learned_positions = false;  // added to the embedding; no rotation
  bool local_rope = false;         // layers with a window rotate by a base of their own
  int window_pattern = 1;          // where there is a window: every so many-th layer has none; 1: all have it
};

// Null where it is not known.
const Family* find_family(const std::string& name);
// "gemma3, llama, ..." as messages list them.
std::string known_families();

}  // namespace spillway

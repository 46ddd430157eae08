// The shapes of OPT (arXiv 2205.01068, table 1), for make_model and for what is simulated. An embedding that is
// projected (350m) is no shape of ours. The vocabulary is that of Meta's files; positions are learned up to 2048.
#pragma once

#include <map>
#include <string>

#include "tests/support/tiny_model.h"

namespace spillway {

inline TinyModelOptions opt_shape(int layers, int heads, int hidden) {
  return {.layers = layers,
          .hidden = hidden,
          .heads = heads,
          .kv_heads = heads,
          .head_dim = hidden / heads,
          .ffn = 4 * hidden,
          .vocab = 50272,
          .context = 2048,
          .family = "opt",
          .tied = true};
}

inline std::map<std::string, TinyModelOptions> opt_shapes() {
  return {{"opt-125m", opt_shape(12, 12, 768)},
          {"opt-6.7b", opt_shape(32, 32, 4096)},
          {"opt-30b", opt_shape(48, 56, 7168)},
          {"opt-175b", opt_shape(96, 96, 12288)}};
}

}  // namespace spillway

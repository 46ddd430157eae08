// Logits that another program computed, and how far ours are from them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spillway {

// Rows 19, 39, ... are kept of the logits after the golden tokens.
inline constexpr int kGoldenStride = 20;

// Ids from a file of numbers with commas.
std::vector<int32_t> golden_tokens(const std::string& path);
// float32 rows from a .npy file.
std::vector<float> golden_logits(const std::string& path);

struct Divergence {
  double mean = 0, most = 0;
};
// KL(golden || got) in nats of each kept row of `got` [tokens x vocab].
Divergence divergence_of(const std::vector<float>& got, const std::vector<float>& golden, int vocab);

}  // namespace spillway

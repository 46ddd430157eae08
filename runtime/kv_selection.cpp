#include "runtime/kv_selection.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

GranuleChoice granule_choice(const KvSelection& selection, int tokens) {
  const int size = selection.granule_tokens;
  const int granules = (tokens + size - 1) / size;
  const int first = (kSinkTokens + size - 1) / size;
  // Those that hold one of the newest tokens.
  const int last = granules - std::max(0, tokens - kRecentTokens) / size;
  const int wanted = selection.tokens > 0
                         ? selection.tokens
                         : std::max(static_cast<int>(selection.share * static_cast<double>(tokens)), kLeastTokens);
  const int count = std::max(wanted / size, first + last);
  if (!selection.on() || count >= granules) return {.granules = granules, .count = granules, .first = 0, .last = 0};
  return {.granules = granules, .count = count, .first = first, .last = last};
}

int most_granules(const KvSelection& selection, int context) {
  // It grows with the positions, but for the newest ones, which may lie in one granule more or less.
  int most = 0;
  for (int tokens = context; tokens > std::max(0, context - kPageTokens); --tokens) {
    const GranuleChoice choice = granule_choice(selection, tokens);
    if (choice.count < choice.granules) most = std::max(most, choice.count);
  }
  return most;
}

std::vector<bool> choosing_layers(const KvSelection& selection, const ModelSpec& spec) {
  std::vector<bool> layers;
  if (!selection.on()) return layers;
  for (const LayerTensors& layer : spec.layers) {
    layers.push_back(layer.window == 0 && layer.from_start >= selection.whole_layers);
  }
  if (std::find(layers.begin(), layers.end(), true) == layers.end()) layers.clear();
  return layers;
}

int checked_layer(const KvSelection& selection, const std::vector<bool>& choosing, int tokens) {
  if (selection.check_every == 0 || tokens % selection.check_every != 0) return -1;
  const auto count = std::count(choosing.begin(), choosing.end(), true);
  if (count == 0) return -1;
  auto turn = tokens / selection.check_every % count;
  for (size_t layer = 0; layer < choosing.size(); ++layer) {
    if (choosing[layer] && turn-- == 0) return static_cast<int>(layer);
  }
  return -1;
}

PartialKeyFormat partial_key_format(const KvSelection& selection, const ModelShape& shape) {
  if (selection.selector == KvSelector::oracle) return {shape.kv_heads, shape.head_dim, 16};
  const bool infinigen = selection.selector == KvSelector::infinigen;
  const int part = static_cast<int>(align_down(shape.head_dim / (infinigen ? 4 : 2), 8));
  const int rank = selection.rank == 0 ? std::max(part, 8) : selection.rank;
  if (rank % 8 != 0 || rank > shape.head_dim) {
    throw Error(ErrorKind::usage, fmt::format("--rank {}: a multiple of 8 up to this model's head size, {}, is wanted",
                                              selection.rank, shape.head_dim));
  }
  return {shape.kv_heads, rank, selection.key_bits > 0 ? selection.key_bits : infinigen ? 16 : 4};
}

}  // namespace spillway

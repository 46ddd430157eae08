#include "runtime/kv_selection.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

std::string KvSelection::flag() const {
  return lets_go() ? fmt::format("--kv-keep {}", kKvRetentionNames[static_cast<int>(keep)])
                   : fmt::format("--kv-select {}", kKvSelectorNames[static_cast<int>(selector)]);
}

namespace {

// Whole granules, so that what is kept grows by one at most with each that begins.
int granules_kept(const KvSelection& selection, int granules) {
  const int size = selection.granule_tokens;
  if (selection.tokens > 0) return selection.tokens / size;
  return std::max(static_cast<int>(selection.share * granules), kLeastTokens / size);
}

int granules_read(const KvSelection& selection, int tokens) {
  const double share = selection.share * static_cast<double>(tokens);
  return (selection.tokens > 0 ? selection.tokens : std::max(static_cast<int>(share), kLeastTokens)) /
         selection.granule_tokens;
}

}  // namespace

GranuleChoice granule_choice(const KvSelection& selection, int tokens) {
  const int size = selection.granule_tokens;
  const int granules = (tokens + size - 1) / size;
  const int first = (kSinkTokens + size - 1) / size;
  // Those that hold one of the newest tokens, wherever these begin in a granule of what is kept.
  const int recent = selection.lets_go() ? (kRecentTokens + size - 1) / size + (size > 1 ? 1 : 0)
                                         : granules - std::max(0, tokens - kRecentTokens) / size;
  const int wanted = selection.lets_go() ? granules_kept(selection, granules) : granules_read(selection, tokens);
  const int count = std::max(wanted, first + recent);
  if (!selection.on() || count >= granules) return {.granules = granules, .count = granules, .first = 0, .last = 0};
  int last = recent;
  if (selection.keep == KvRetention::window) last = count - first;
  if (selection.keep == KvRetention::heavy) last = std::max(recent, count / 2);
  return {.granules = granules, .count = count, .first = first, .last = last};
}

bool chooses(const KvSelection& selection, const GranuleChoice& choice) {
  return choice.count < choice.granules || selection.adds_up();
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
  if (!selection.foretells()) return {shape.kv_heads, 0, 16};
  const bool infinigen = selection.selector == KvSelector::infinigen;
  const int part = static_cast<int>(align_down(shape.head_dim / (infinigen ? 4 : 2), 8));
  const int rank = selection.rank == 0 ? std::max(part, 8) : selection.rank;
  if (rank % 8 != 0 || rank > shape.head_dim) {
    throw Error(ErrorKind::usage, fmt::format("--rank {}: a multiple of 8 up to this model's head size, {}, is wanted",
                                              selection.rank, shape.head_dim));
  }
  return {shape.kv_heads, rank, selection.key_bits > 0 ? selection.key_bits : infinigen ? 16 : 4};
}

void check_policy(const KvSelection& selection, KvCodec codec) {
  const auto refuse = [](const std::string& text) { throw Error(ErrorKind::usage, text); };
  const char* selector = kKvSelectorNames[static_cast<int>(selection.selector)];
  const char* type = info(codec).name;
  if (selection.keep == KvRetention::window && selection.scores()) {
    refuse(
        fmt::format("--kv-keep window reads all of what it keeps, as much as --select-budget says: --kv-select {} "
                    "has nothing to choose from",
                    selector));
  }
  if (selection.adds_up() && selection.scores()) {
    refuse(
        fmt::format("--kv-keep heavy goes by the attention that tokens have had: of those that --kv-select {} does "
                    "not read it is not seen",
                    selector));
  }
  if (selection.lets_go() && (selection.alpha > 0 || selection.top_p > 0)) {
    refuse(fmt::format("{}: {} keeps as many tokens as --select-budget says, whatever their scores",
                       selection.alpha > 0 ? "--select-alpha" : "--select-top-p", selection.flag()));
  }
  if (selection.repair && !selection.foretells()) {
    refuse(fmt::format("--repair: {} foretells nothing that could be mended", selection.flag()));
  }
  if (selection.lets_go() && selection.check_every > 0) {
    refuse(fmt::format("--check-every: what {} has let go cannot be read", selection.flag()));
  }
  if (codec == KvCodec::f32 && selection.on()) {
    refuse(fmt::format(
        "{}: reads a part of KV that is kept in half precision or packed, and --kv-type {} keeps it in single",
        selection.flag(), type));
  }
  if (packs(codec) && selection.on() && selection.granule_tokens != kGranuleTokens) {
    refuse(fmt::format("--granule {}: packed pages (--kv-type {}) are read by {} tokens", selection.granule_tokens,
                       type, kGranuleTokens));
  }
  // The first and the newest granules, which are always read, are within the number.
  const int size = selection.granule_tokens;
  const int least = ((kSinkTokens + size - 1) / size + (kRecentTokens + size - 1) / size + 1) * size;
  if (selection.tokens > 0 && selection.tokens < least) {
    refuse(fmt::format("--select-budget {}: by granules of {}, at least {} are read", selection.tokens, size, least));
  }
}

}  // namespace spillway

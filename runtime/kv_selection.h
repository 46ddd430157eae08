// KvSelection: which part of the KV a decode step reads (the Selector of a policy): how it is chosen, and how much of
// it. All that follows from positions and these wishes alone is here: never from a budget, or from what is resident.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/selection.h"
#include "loader/model_spec.h"

namespace spillway {

enum class KvSelector : uint8_t {
  all,        // everything
  rehearsal,  // by partial keys and a query foretold from an earlier layer's input
  infinigen,  // so, as it was published (arXiv 2406.19707, sections 4.2 and 4.3): the directions that carry the
              // queries, the model's own matrix, on the earlier layer's own norm. For comparison.
  oracle,     // by all of the keys and the true query, when it is there: nothing is fetched ahead
};
inline constexpr KvSelector kKvSelectors[] = {KvSelector::all, KvSelector::rehearsal, KvSelector::infinigen,
                                              KvSelector::oracle};
inline constexpr const char* kKvSelectorNames[] = {"all", "rehearsal", "infinigen", "oracle"};

struct KvSelection {
  KvSelector selector = KvSelector::all;
  int tokens = 0;          // to attend to; 0: `share` of those there are
  double share = 0.1;      // but at least kLeastTokens
  int rank = 0;            // of partial keys; 0: half of the head, of infinigen a quarter
  int key_bits = 0;        // of their numbers; 0: 4, of infinigen 16
  int granule_tokens = 4;  // chosen and fetched together
  int whole_layers = 2;    // the model's first layers, whose KV is read whole
  int ahead = 1;           // layers between the input that foretells a query and the query
  double hot_slots = 2;    // granules that the device keeps, in terms of those chosen
  // > 0: in every so many-th step one of the choosing layers, in turn, reads everything too, to see what share of the
  // attention its choice misses. That changes no answer.
  int check_every = 0;
  // Every layer reads everything, in every step, and answers by that; what it would have chosen is only looked at.
  bool only_check = false;

  bool on() const { return selector != KvSelector::all; }
  // Queries are foretold, by what a skew knows of the model.
  constexpr bool foretells() const { return selector == KvSelector::rehearsal || selector == KvSelector::infinigen; }
};

// Of a share of a short context little would be left.
inline constexpr int kLeastTokens = 128;
// Always attended to, inside the number: the first tokens (attention sinks, arXiv 2309.17453) and the newest.
inline constexpr int kSinkTokens = 4;
inline constexpr int kRecentTokens = 32;

// What a decode step over `tokens` positions, its own among them, chooses of each KV head; count == granules: all is
// read, and nothing chosen.
GranuleChoice granule_choice(const KvSelection& selection, int tokens);
// The largest count up to `context` positions; 0: nothing is ever chosen.
int most_granules(const KvSelection& selection, int context);

// Of each layer of the model, or of a stretch of it, whether its decode steps choose: not where a window bounds what is
// read anyhow.
std::vector<bool> choosing_layers(const KvSelection& selection, const ModelSpec& spec);

// Of the layers that choose, the one that reads everything too in a decode step over `tokens` positions; below 0: none.
int checked_layer(const KvSelection& selection, const std::vector<bool>& choosing, int tokens);

// A layer whose query nothing foretells chooses when it has the true one: the first ones of a stretch.
constexpr bool foretold(const KvSelection& selection, int layer) {
  return selection.foretells() && layer >= selection.ahead;
}

// Throws Error(usage) naming the flag that this model, or another flag, does not go with.
PartialKeyFormat partial_key_format(const KvSelection& selection, const ModelShape& shape);

}  // namespace spillway

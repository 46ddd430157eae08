// KvSelection: which tokens of the KV stay (the Retention of a policy), and which of them a decode step reads (the
// Selector): how that is chosen, and how much of it. All that follows from positions and these wishes alone is here:
// never from a budget, or from what is resident.
#pragma once

#include <cstdint>
#include <string>
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
  bounds,     // by the bounds of each granule's keys and the true query (Quest, arXiv 2406.10774, section 3.2)
};
inline constexpr KvSelector kKvSelectors[] = {KvSelector::all, KvSelector::rehearsal, KvSelector::infinigen,
                                              KvSelector::oracle, KvSelector::bounds};
inline constexpr const char* kKvSelectorNames[] = {"all", "rehearsal", "infinigen", "oracle", "bounds"};

// Which tokens stay, once a sequence decodes; a prompt is read and kept whole. What has been let go never comes back.
enum class KvRetention : uint8_t {
  all,     // everything
  window,  // the first and the newest ones (StreamingLLM, arXiv 2309.17453, section 3.2)
  heavy,   // half of them the newest, the others those that have had most of the attention, of each KV head (H2O, arXiv
           // 2306.14048, section 4.2), prompt and decode steps added up
};
inline constexpr KvRetention kKvRetentions[] = {KvRetention::all, KvRetention::window, KvRetention::heavy};
inline constexpr const char* kKvRetentionNames[] = {"all", "window", "heavy"};

struct KvSelection {
  KvSelector selector = KvSelector::all;
  KvRetention keep = KvRetention::all;
  int tokens = 0;      // to attend to, or to keep; 0: `share` of those there are
  double share = 0.1;  // but at least kLeastTokens
  // > 0: fewer than that, by their scores: those within so much of the highest (InfiniGen, section 4.3), or the fewest
  // that have this share of the foretold attention. Of each KV head.
  double alpha = 0;
  double top_p = 0;
  int rank = 0;            // of partial keys; 0: half of the head, of infinigen a quarter
  int key_bits = 0;        // of their numbers; 0: 4, of infinigen 16
  int granule_tokens = 4;  // chosen and fetched together
  int whole_layers = 2;    // the model's first layers, whose KV is read whole
  // A layer whose query was foretold chooses again by its own when it is there, and fetches what that lacks.
  bool repair = false;
  int ahead = 1;         // layers between the input that foretells a query and the query
  double hot_slots = 2;  // granules that the device keeps, in terms of those chosen
  // > 0: in every so many-th step one of the choosing layers, in turn, reads everything too, to see what share of the
  // attention its choice misses. That changes no answer.
  int check_every = 0;
  // Every layer reads everything, in every step, and answers by that; what it would have chosen is only looked at.
  bool only_check = false;

  bool operator==(const KvSelection&) const = default;
  // Without the checks, which change no answer.
  KvSelection unchecked() const {
    KvSelection other = *this;
    other.check_every = 0;
    other.only_check = false;
    return other;
  }
  bool on() const { return selector != KvSelector::all || lets_go(); }
  constexpr bool lets_go() const { return keep != KvRetention::all; }
  constexpr bool adds_up() const { return keep == KvRetention::heavy; }  // attention, from the prompt on
  // Goes by the contents of keys, of which every page row has something beside it.
  constexpr bool scores() const { return selector != KvSelector::all; }
  // As a person asks for it: "--kv-select rehearsal".
  std::string flag() const;
  // Queries are foretold, by what a skew knows of the model.
  constexpr bool foretells() const { return selector == KvSelector::rehearsal || selector == KvSelector::infinigen; }
};

// Of a share of a short context little would be left.
inline constexpr int kLeastTokens = 128;
// Always attended to, inside the number: the first tokens (attention sinks, arXiv 2309.17453) and the newest.
inline constexpr int kSinkTokens = 4;
inline constexpr int kRecentTokens = 32;

// What a decode step over `tokens` positions, its own among them, chooses of each KV head; count == granules: all is
// read. What is kept grows by at most what comes new: of a window, never by what has been let go.
GranuleChoice granule_choice(const KvSelection& selection, int tokens);
// Whether that step chooses at all.
bool chooses(const KvSelection& selection, const GranuleChoice& choice);
// The largest count up to `context` positions; 0: nothing is ever chosen.
int most_granules(const KvSelection& selection, int context);

// Of each layer of the model, or of a stretch of it, whether its decode steps choose: not where a window bounds what is
// read anyhow.
std::vector<bool> choosing_layers(const KvSelection& selection, const ModelSpec& spec);

// Of the layers that choose, the one that reads everything too in a decode step over `tokens` positions; below 0: none.
int checked_layer(const KvSelection& selection, const std::vector<bool>& choosing, int tokens);

// A layer whose query nothing foretells chooses when it has the true one: the first ones of a stretch. What is kept
// needs no query.
constexpr bool foretold(const KvSelection& selection, int layer) {
  return (selection.foretells() || selection.lets_go()) && layer >= selection.ahead;
}

// Throws Error(usage) naming the flag that this model, or another flag, does not go with. No rank: there are none.
PartialKeyFormat partial_key_format(const KvSelection& selection, const ModelShape& shape);

// Throws Error(usage), a sentence that names the flags, where parts of a policy do not go together, or its budget is
// below what is always read.
void check_policy(const KvSelection& selection, KvCodec codec);

}  // namespace spillway

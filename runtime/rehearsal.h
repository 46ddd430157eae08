// Rehearsal: what a decode step does where layers read chosen granules of the KV alone (InfiniGen, arXiv 2406.19707,
// sections 4.2 and 4.3): it keeps the partial keys of every token on the device, scores them with a layer's query,
// foretold from the input of an earlier layer where it can be, and lets what was chosen be fetched meanwhile. The
// policies that it is compared with go the same way: by bounds of keys in place of partial ones, or, where tokens are
// let go (KvRetention), by the attention that they have had or by their positions alone.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kernels/ops.h"
#include "kernels/trace.h"
#include "loader/model_spec.h"
#include "memory/kv/cache.h"
#include "memory/tier.h"
#include "prefetch/chosen_feed.h"
#include "prefetch/kv_feed.h"
#include "runtime/plan.h"
#include "runtime/selection_workspace.h"
#include "runtime/skew.h"
#include "runtime/weight_loader.h"

namespace spillway {

struct RehearsalParts {
  const ModelSpec& spec;  // of the unit's layers
  const SelectionPlan& plan;
  const Skew* skew;  // of the whole model, or null
  Ops& ops;
  Stream& compute;
  KvCache& kv;
  ChosenFeed& feed;
  std::span<std::byte> query_matrices, directions, sums, workspace, host;  // as large as the plan says
  int context = 0;
  Traffic& traffic;  // counts choices and places
  bool far = false;  // where the device's memory is not the host's
};

// Of query heads at which everything was read beside what was chosen: the softmax mass that the choice has missed.
struct MissedMass {
  double sum = 0;
  uint64_t heads = 0;

  double mean() const { return heads == 0 ? 0 : sum / static_cast<double>(heads); }
};

class Rehearsal {
 public:
  explicit Rehearsal(const RehearsalParts& parts);

  // Brings the matrices and directions to their places.
  void load(Device& device, const Checkpoint& model, std::span<std::byte> staging, Traffic& traffic);

  // Whether a decode step over `tokens` positions, its own among them, chooses; and in which layers.
  bool chooses(int tokens) const;
  // So many of them at most in a pass, which is theirs alone.
  int together() const { return p_.plan.together(); }
  KvReading reading(int tokens) const;
  // How a prompt reads the layers: those whose attention is added up, twice.
  KvReading prompt_reading() const { return {.adds_up = p_.plan.wishes.adds_up()}; }
  bool chooses_in(int layer) const { return p_.kv.layout().chooses(layer); }
  // The layer whose query the input of `layer` foretells; none: below 0.
  int foretold_by(int layer) const;
  // Whose attention norm the input goes through: the foretold layer's, or the earlier one's.
  int norm_of(int layer) const {
    return p_.plan.wishes.selector == KvSelector::infinigen ? layer - p_.plan.wishes.ahead : layer;
  }
  bool is_foretold(int layer) const { return foretold(p_.plan.wishes, layer); }
  bool adds_up(int layer) const { return p_.plan.wishes.adds_up() && chooses_in(layer); }
  // Whether a choice takes a query; else choose() is given none.
  bool scores() const { return p_.plan.wishes.scores(); }

  // Places of the foretold layer's input, normalised, and of its query, a row for each sequence of a pass; the matrix
  // between them and its bias, which has no data where the model's own serves.
  View input(int rows) const { return workspace_.h.slice_rows(0, rows); }
  View query(int rows) const { return workspace_.q.slice_rows(0, rows); }
  View matrix(int layer) const { return queries_[layer].matrix; }
  View bias(int layer) const { return queries_[layer].bias; }

  // After an append: the partial keys of new tokens, or the bounds; and the heads of pages that have been packed.
  void keep_keys(int layer, const KvGrowth& growth);
  void keep_heads(int layer, const KvPacking& packing);

  // After a chunk has attended, in `states` over all spans, its spans once more: adds up what each granule has had.
  // window: of the prompt (PassInput::prompt_window).
  void add_up(int layer, SequenceId sequence, View q, int first_position, int window, std::span<const KvSpan> spans,
              View states);
  // A sequence's sums are copied with it, and their place is another's after it.
  void forked(SequenceId from, SequenceId to);
  void closed(SequenceId sequence);

  // What one sequence does in a pass: a step over `tokens` positions.
  struct Step {
    int index = 0;  // of those that choose in the pass, at most SelectionPlan::together()
    SequenceId sequence = 0;
    int tokens = 0;
  };
  // In the order of calls. Scores the partial keys of the first `keys` positions with the layer's query q [1 x heads *
  // head_dim], rotated, and chooses.
  void choose(int layer, const Step& step, View q, int keys);
  // Waits for the choice, the one thing that the host waits for, and starts the fetches of what is missing. Pages of
  // which nothing is kept are free from now on.
  void fetch(int layer, const Step& step, Cause cause = Cause::kv_fetch);
  // Chooses by the layer's own query, and fetches: where nothing has foretold it, or what was foretold is mended. q:
  // a row for each step.
  void choose_truly(int layer, std::span<const Step> steps, View q);
  // The states of what was chosen; returns how many.
  int attend(int layer, const Step& step, View q, const AttendShape& shape, View states);

  // Whether a layer that chooses reads everything too in that step, and which of the two it answers by.
  bool checks(int layer, int tokens) const;
  bool answers_by_all() const { return only_check_; }
  // KvSelection::only_check from the next step on; only where it was planned for.
  void set_only_check(bool on) {
    SPILLWAY_CHECK(p_.plan.wishes.only_check);
    only_check_ = on;
  }
  // The states of everything, or of what was chosen, as they are now; and, when both are there, what is missing.
  void look_at(View states, bool all);
  void count_missed();
  const MissedMass& missed() const { return missed_; }

 private:
  struct Query {
    View matrix, bias;
  };
  AttendShape shape_of(int layer) const;
  void score(int layer, View q, int keys, View weights);
  View sums_of(int layer, SequenceId sequence);  // [kv_heads x granules]
  // Of a choice on its way, its number among all.
  int slot_of(int layer, const Step& step) const {
    return layer % (p_.plan.wishes.ahead + 1) * p_.plan.batch + step.index;
  }
  View ids_of(int slot, int count) const;
  void take_window(const GranuleChoice& choice);
  void let_go(int layer, SequenceId sequence, int tokens);
  HostKeyBasis basis_of(int layer) const;

  RehearsalParts p_;
  bool only_check_ = false;
  SelectionWorkspace workspace_;
  SelectionHost host_;
  std::vector<Query> queries_;          // [layers]
  std::vector<PartialKeyBasis> basis_;  // [layers]
  std::vector<Event> chosen_;           // of choices on their way
  Event table_free_[SelectionHost::kTables];
  int table_ = 0;
  int64_t seen_[2] = {};  // rows of states looked at: of what was chosen, of everything
  MissedMass missed_;
  std::vector<SequenceId> owners_;      // of the places of sums; below 0: nobody's
  std::vector<int> numbers_;            // of layers among those that choose
  std::vector<bool> stays_;             // of the layer's rows in turn
  std::vector<const std::byte*> rows_;  // of the layer in turn
  std::vector<int32_t> ids_;
  std::vector<PartialKeyRun> runs_;
  std::vector<GatherRun> heads_;
  Trace::Track track_;
};

}  // namespace spillway

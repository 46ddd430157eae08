// SelectionWorkspace: the places of a decode step that chooses among the KV, cut once from the device's arena, and
// those of the host through which its choice and the places chosen pass.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "loader/model_spec.h"
#include "memory/kv/layout.h"
#include "runtime/plan.h"
#include "runtime/skew.h"

namespace spillway {

struct SelectionRoom {
  int most = 0;  // granules that a KV head chooses at once
  int context = 0;
  int choices = 1;  // of a sequence on their way at once
  int batch = 1;    // sequences that choose in one pass
};

// All views are f32 but `ids`.
struct SelectionWorkspace {
  View h;                          // [batch x hidden] the input of the layer that is foretold, normalised
  View q;                          // [batch x heads * head_dim] its query
  View scores;                     // [heads x score_columns] scratch of Ops::score_keys, [heads x granules] of bounds
  View weights;                    // [kv_heads x granules]
  View ids;                        // [choices * batch * kv_heads x most] i32: of as many layers as are on their way
  GranulePlace* places = nullptr;  // [kv_heads x most]

  // Cuts it from `memory`; with null memory only counts. Returns the bytes used.
  static uint64_t cut(const ModelSpec& spec, const KvLayout& layout, const SelectionRoom& room, std::byte* memory,
                      SelectionWorkspace* out);
};

// Host memory that the device copies from and to.
struct SelectionHost {
  static constexpr int kTables = 4;
  int choices = 0;      // on their way at once, of all sequences of a pass
  uint64_t list = 0;    // entries [kv_heads x most]
  uint64_t states = 0;  // bytes of the states of a decode step, where they are looked at
  std::byte* memory = nullptr;

  static SelectionHost of(const ModelSpec& spec, const KvSelection& selection, const SelectionRoom& room,
                          std::byte* memory);
  uint64_t ids_bytes() const { return align_up(list * sizeof(int32_t), 64); }
  uint64_t table_bytes() const { return align_up(list * sizeof(GranulePlace), 64); }
  uint64_t bytes() const { return choices * ids_bytes() + kTables * table_bytes() + 2 * states; }
  int32_t* ids(int choice) const { return reinterpret_cast<int32_t*>(memory + choice * ids_bytes()); }
  GranulePlace* table(int table) const {
    return reinterpret_cast<GranulePlace*>(memory + choices * ids_bytes() + table * table_bytes());
  }
  // Of all that there is, or of what was chosen.
  std::byte* states_of(bool all) const { return memory + bytes() - (all ? 2 : 1) * states; }
};

// The skew's layer where its matrix foretells the query of `layer`; null where the model's own does, or nothing.
const SkewLayer* corrected(const ModelSpec& spec, const KvSelection& selection, const Skew* skew, int layer);
// The matrix that foretells the query of a layer: the skew's, or the model's own. No columns where nothing foretells
// it.
TensorInfo query_matrix(const ModelSpec& spec, const KvSelection& selection, const Skew* skew, int layer);
// Sets of directions that are kept: one for each layer that chooses, or one for all; none without partial keys.
int direction_sets(const KvLayout& layout, const Skew* skew);
uint64_t direction_bytes(const KvLayout& layout);  // of a set
// What each granule of each KV head has had of the attention, of a sequence: of one layer [kv_heads x granules] f32,
// and of all that choose.
uint64_t layer_sum_bytes(const KvLayout& layout, int context);
uint64_t attention_sum_bytes(const KvLayout& layout, int context);

// Positions, page rows of each layer, sequences that share them, and of these the ones that share a pass.
struct SelectionScale {
  int context = 0, rows = 0, sequences = 1, batch = 1;
};
// What choosing takes where all KV stays on the device; nothing where no step of so many positions chooses. The hot set
// comes with KV that does not: add_hot_set().
SelectionPlan selection_plan(const ModelSpec& spec, const KvSelection& selection, const KvLayout& layout,
                             const Skew* skew, const SelectionScale& scale);
// Adds what KV outside the device asks for: a hot set of so many granules of each layer and KV head, at least what one
// sequence chooses at once and at most all; landing: of reads from disk.
void add_hot_set(SelectionPlan& plan, const KvLayout& layout, int context, int hot_slots, const StagingShape& landing);

}  // namespace spillway

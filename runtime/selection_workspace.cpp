#include "runtime/selection_workspace.h"

#include <algorithm>
#include <cmath>

#include "prefetch/chosen_feed.h"

namespace spillway {
namespace {

int granules_of(const KvLayout& layout, int context) {
  return (context + layout.chosen.granule_tokens - 1) / layout.chosen.granule_tokens;
}

}  // namespace

uint64_t SelectionWorkspace::cut(const ModelSpec& spec, const KvLayout& layout, const SelectionRoom& room,
                                 std::byte* memory, SelectionWorkspace* out) {
  const ModelShape& shape = spec.shape;
  const int granules = granules_of(layout, room.context);
  const bool partial = layout.chosen.partial.rank > 0;
  uint64_t used = 0;
  const auto take = [&](uint64_t bytes) {
    std::byte* piece = memory == nullptr ? nullptr : memory + used;
    used += align_up(bytes, 64);
    return piece;
  };
  const auto matrix = [&](DType dtype, int64_t rows, int64_t cols) {
    return View::dense(take(row_bytes(dtype, cols) * rows), dtype, rows, cols);
  };
  SelectionWorkspace w;
  w.h = matrix(DType::f32, room.batch, shape.hidden);
  w.q = matrix(DType::f32, room.batch, shape.q_width());
  w.scores = matrix(DType::f32, shape.heads,
                    partial                ? score_columns(layout.chosen.partial, room.context)
                    : layout.chosen.bounds ? granules
                                           : 0);
  w.weights = matrix(DType::f32, shape.kv_heads, granules);
  w.ids = matrix(DType::i32, int64_t{room.choices} * room.batch * shape.kv_heads, room.most);
  w.places = reinterpret_cast<GranulePlace*>(take(sizeof(GranulePlace) * shape.kv_heads * room.most));
  if (out != nullptr) *out = w;
  return used;
}

SelectionHost SelectionHost::of(const ModelSpec& spec, const KvSelection& selection, const SelectionRoom& room,
                                std::byte* memory) {
  const ModelShape& shape = spec.shape;
  SelectionHost host{.choices = room.choices * room.batch,
                     .list = static_cast<uint64_t>(shape.kv_heads) * room.most,
                     .memory = memory};
  if (selection.check_every == 0 && !selection.only_check) return host;
  const int64_t spans = (room.context + kSpanTokens - 1) / kSpanTokens;
  host.states = align_up(row_bytes(DType::f32, spans * shape.heads * attn_state_floats(shape.head_dim)), 64);
  return host;
}

const SkewLayer* corrected(const ModelSpec& spec, const KvSelection& selection, const Skew* skew, int layer) {
  if (skew == nullptr || selection.selector != KvSelector::rehearsal || !foretold(selection, layer)) return nullptr;
  const SkewLayer& kept = skew->layers[spec.layers[layer].from_start];
  return kept.matrix.cols > 0 ? &kept : nullptr;
}

TensorInfo query_matrix(const ModelSpec& spec, const KvSelection& selection, const Skew* skew, int layer) {
  if (!selection.foretells() || !foretold(selection, layer)) return {};
  const SkewLayer* kept = corrected(spec, selection, skew, layer);
  return kept != nullptr ? kept->matrix : spec.layers[layer].q;
}

int direction_sets(const KvLayout& layout, const Skew* skew) {
  if (layout.chosen.partial.rank == 0) return 0;
  return skew == nullptr ? 1 : layout.choosing_layers();
}

uint64_t direction_bytes(const KvLayout& layout) {
  const KvFormat& format = layout.format;
  const uint64_t floats =
      static_cast<uint64_t>(format.kv_heads) * format.head_dim * (2 * layout.chosen.partial.rank + 1);
  return align_up(floats * sizeof(float), 64);
}

uint64_t layer_sum_bytes(const KvLayout& layout, int context) {
  return align_up(row_bytes(DType::f32, granules_of(layout, context)) * layout.format.kv_heads, 64);
}

uint64_t attention_sum_bytes(const KvLayout& layout, int context) {
  return static_cast<uint64_t>(layout.choosing_layers()) * layer_sum_bytes(layout, context);
}

SelectionPlan selection_plan(const ModelSpec& spec, const KvSelection& selection, const KvLayout& layout,
                             const Skew* skew, const SelectionScale& scale) {
  SelectionPlan plan{.wishes = selection};
  const int context = scale.context;
  plan.most = layout.choosing_layers() == 0 ? 0 : most_granules(selection, context);
  if (!plan.on()) return plan;
  plan.sequences = scale.sequences;
  // A look at what is missed is one sequence's.
  plan.batch = selection.check_every > 0 || selection.only_check ? 1 : scale.batch;
  if (selection.adds_up()) {
    plan.attention_sums =
        align_up(static_cast<uint64_t>(scale.sequences) * attention_sum_bytes(layout, context), kDiskAlign);
  }
  plan.sidecars = static_cast<uint32_t>(scale.rows) * static_cast<uint32_t>(layout.choosing_layers());
  plan.key_scales = plan.sidecars * layout.heads_bytes();
  plan.partial_keys = align_up(plan.sidecars * layout.sidecar_bytes(), kDiskAlign) - plan.key_scales;
  for (int layer = 0; layer < layout.layers; ++layer) {
    if (!layout.chooses(layer)) continue;
    const TensorInfo matrix = query_matrix(spec, selection, skew, layer);
    if (matrix.cols == 0) continue;
    plan.query_matrices += align_up(matrix.extent.bytes, 64) + align_up(row_bytes(DType::f32, matrix.rows), 64);
  }
  plan.query_matrices = align_up(plan.query_matrices, kDiskAlign);
  plan.directions = align_up(static_cast<uint64_t>(direction_sets(layout, skew)) * direction_bytes(layout), kDiskAlign);
  const SelectionRoom room{plan.most, context, selection.ahead + 1, plan.batch};
  plan.workspace = align_up(SelectionWorkspace::cut(spec, layout, room, nullptr, nullptr), kDiskAlign);
  plan.host_bytes = align_up(SelectionHost::of(spec, selection, room, nullptr).bytes(), kDiskAlign);
  return plan;
}

void add_hot_set(SelectionPlan& plan, const KvLayout& layout, int context, int hot_slots, const StagingShape& landing) {
  if (!plan.on()) return;
  const int granules = granules_of(layout, context);
  plan.hot_slots = std::clamp(hot_slots, plan.most, granules * plan.batch);
  plan.hot_set = align_up(ChosenFeed::hot_bytes(layout, plan.hot_slots), kDiskAlign);
  plan.landing = landing;
  plan.lookup =
      HotSet::bytes(layout.choosing_layers() * layout.format.kv_heads, granules * plan.sequences, plan.hot_slots);
}

}  // namespace spillway

#include "kernels/selection_checks.h"

#include "kernels/op_checks.h"

namespace spillway {
namespace {

void check_format(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis) {
  SPILLWAY_CHECK(kv.kv_heads > 0 && format.kv_heads == kv.kv_heads);
  SPILLWAY_CHECK(format.rank > 0 && format.rank % 8 == 0 && format.rank <= kv.head_dim);
  SPILLWAY_CHECK(format.bits == 16 || format.bits == 8 || format.bits == 4);
  const int64_t directions = int64_t{format.kv_heads} * format.rank;
  SPILLWAY_CHECK(is_f32(basis.keys, directions, kv.head_dim) && is_f32(basis.queries, directions, kv.head_dim));
  SPILLWAY_CHECK(is_f32(basis.mean, kv.kv_heads, kv.head_dim));
}

bool is_granule(int tokens) { return tokens > 0 && kPageTokens % tokens == 0; }

}  // namespace

void check_partial_keys(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                        std::span<const PartialKeyRun> runs) {
  check_format(kv, format, basis);
  SPILLWAY_CHECK(kv.dtype == DType::f16);
  for (const PartialKeyRun& run : runs) {
    SPILLWAY_CHECK(run.page_row != nullptr && run.partial != nullptr);
    SPILLWAY_CHECK(run.first_token >= 0 && run.count >= 0 && run.first_token + run.count <= kPageTokens);
  }
}

void check_score_keys(const KeyScoreArguments& a) {
  check_format(a.shape.format, a.format, a.basis);
  SPILLWAY_CHECK(a.shape.heads > 0 && a.shape.heads % a.format.kv_heads == 0 && a.tokens >= 0);
  SPILLWAY_CHECK(is_f32(a.q, 1, int64_t{a.shape.heads} * a.shape.format.head_dim));
  SPILLWAY_CHECK(is_f32(a.scores, a.shape.heads, score_columns(a.format, a.tokens)));
  SPILLWAY_CHECK(is_granule(a.granule_tokens));
  SPILLWAY_CHECK(is_f32(a.weights, a.format.kv_heads, (int64_t{a.tokens} + a.granule_tokens - 1) / a.granule_tokens));
  SPILLWAY_CHECK(a.rows.size() == (static_cast<size_t>(a.tokens) + kPageTokens - 1) / kPageTokens);
  for (const std::byte* row : a.rows) SPILLWAY_CHECK(row != nullptr);
}

void check_choose_granules(const View& weights, const GranuleChoice& choice, const View& ids) {
  SPILLWAY_CHECK(choice.count > 0 && choice.count <= choice.granules);
  SPILLWAY_CHECK(choice.first >= 0 && choice.last >= 0 && choice.first + choice.last <= choice.count);
  SPILLWAY_CHECK(is_f32(weights, ids.rows, choice.granules));
  SPILLWAY_CHECK(ids.dtype == DType::i32 && ids.cols == choice.count);
}

void check_attend_selected(const View& q, const AttendShape& shape, const SelectedKv& kv, const View& states) {
  SPILLWAY_CHECK(shape.format.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.format.kv_heads == 0);
  SPILLWAY_CHECK(is_f32(q, 1, int64_t{shape.heads} * shape.format.head_dim));
  SPILLWAY_CHECK(is_granule(kv.granule_tokens) && kv.granules >= 0 && (kv.places != nullptr || kv.granules == 0));
  SPILLWAY_CHECK(!shape.format.packs() || kv.granule_tokens == kGranuleTokens);
  SPILLWAY_CHECK(is_f32(states, kv.states(), int64_t{shape.heads} * attn_state_floats(shape.format.head_dim)));
}

}  // namespace spillway

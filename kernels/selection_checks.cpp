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

void check_runs(const KvFormat& kv, std::span<const PartialKeyRun> runs) {
  SPILLWAY_CHECK(kv.dtype == DType::f16);
  for (const PartialKeyRun& run : runs) {
    SPILLWAY_CHECK(run.page_row != nullptr && run.partial != nullptr);
    SPILLWAY_CHECK(run.first_token >= 0 && run.count >= 0 && run.first_token + run.count <= kPageTokens);
  }
}

void check_heads(const AttendShape& shape) {
  SPILLWAY_CHECK(shape.format.kv_heads > 0 && shape.heads > 0 && shape.heads % shape.format.kv_heads == 0);
}

bool is_granule(int tokens) { return tokens > 0 && kPageTokens % tokens == 0; }

}  // namespace

void check_partial_keys(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                        std::span<const PartialKeyRun> runs) {
  check_format(kv, format, basis);
  check_runs(kv, runs);
}

void check_key_bounds(const KvFormat& kv, int granule_tokens, std::span<const PartialKeyRun> runs) {
  SPILLWAY_CHECK(kv.kv_heads > 0 && is_granule(granule_tokens));
  check_runs(kv, runs);
}

void check_score_bounds(const BoundScoreArguments& a) {
  check_heads(a.shape);
  SPILLWAY_CHECK(is_f32(a.q, 1, int64_t{a.shape.heads} * a.shape.format.head_dim));
  SPILLWAY_CHECK(is_granule(a.granule_tokens) && a.tokens >= 0);
  const int64_t granules = (int64_t{a.tokens} + a.granule_tokens - 1) / a.granule_tokens;
  SPILLWAY_CHECK(is_f32(a.scores, a.shape.heads, granules));
  SPILLWAY_CHECK(is_f32(a.weights, a.shape.format.kv_heads, granules));
  SPILLWAY_CHECK(a.rows.size() == (static_cast<size_t>(a.tokens) + kPageTokens - 1) / kPageTokens);
  for (const std::byte* row : a.rows) SPILLWAY_CHECK(row != nullptr);
}

void check_sum_attention(const View& q, const AttendShape& shape, std::span<const KvSpan> spans, const View& states,
                         int granule_tokens, const View& sums) {
  check_heads(shape);
  SPILLWAY_CHECK(shape.format.dtype == DType::f16 && shape.window >= 0 && is_granule(granule_tokens));
  SPILLWAY_CHECK(is_f32(q, q.rows, int64_t{shape.heads} * shape.format.head_dim));
  SPILLWAY_CHECK(is_f32(states, q.rows, int64_t{shape.heads} * attn_state_floats(shape.format.head_dim)));
  SPILLWAY_CHECK(is_f32(sums, shape.format.kv_heads, sums.cols));
  for (const KvSpan& span : spans) {
    SPILLWAY_CHECK(span.first_position % kPageTokens == 0 && span.tokens <= kSpanTokens);
    SPILLWAY_CHECK(span.packed == 0 || (shape.format.packs() && can_pack(shape.format.head_dim)));
    SPILLWAY_CHECK(span.first_position + span.tokens <= sums.cols * granule_tokens);
  }
}

void check_sum_selected(const SumSelectedArguments& a) {
  check_attend_selected(a.q, a.shape, a.kv, a.states);
  SPILLWAY_CHECK(a.kv.granules > 0 && a.tokens > 0);
  SPILLWAY_CHECK(a.ids.dtype == DType::i32 && a.ids.rows == a.shape.format.kv_heads && a.ids.cols == a.kv.granules);
  SPILLWAY_CHECK(is_f32(a.sums, a.shape.format.kv_heads, (a.tokens + a.kv.granule_tokens - 1) / a.kv.granule_tokens));
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
  SPILLWAY_CHECK(choice.of_largest >= 0 && choice.mass >= 0);
  SPILLWAY_CHECK(!choice.adapts() || (choice.scored > 0 && choice.scored <= choice.granules));
  SPILLWAY_CHECK(is_f32(weights, ids.rows, choice.granules));
  SPILLWAY_CHECK(ids.dtype == DType::i32 && ids.cols == choice.count);
}

void check_attend_selected(const View& q, const AttendShape& shape, const SelectedKv& kv, const View& states) {
  check_heads(shape);
  SPILLWAY_CHECK(is_f32(q, 1, int64_t{shape.heads} * shape.format.head_dim));
  SPILLWAY_CHECK(is_granule(kv.granule_tokens) && kv.granules >= 0 && (kv.places != nullptr || kv.granules == 0));
  SPILLWAY_CHECK(shape.format.dtype == DType::f16);
  SPILLWAY_CHECK(!shape.format.packs() || kv.granule_tokens == kGranuleTokens);
  SPILLWAY_CHECK(is_f32(states, kv.states(), int64_t{shape.heads} * attn_state_floats(shape.format.head_dim)));
}

}  // namespace spillway

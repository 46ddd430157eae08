// What every device demands of the arguments of a selection (Ops::partial_keys and those after it).
#pragma once

#include <cstddef>
#include <span>

#include "kernels/ops.h"

namespace spillway {

void check_partial_keys(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                        std::span<const PartialKeyRun> runs);

struct KeyScoreArguments {
  View q;
  const AttendShape& shape;
  const PartialKeyFormat& format;
  const PartialKeyBasis& basis;
  std::span<const std::byte* const> rows;
  int tokens;
  int granule_tokens;
  View scores, weights;
};
void check_score_keys(const KeyScoreArguments& arguments);

void check_key_bounds(const KvFormat& kv, int granule_tokens, std::span<const PartialKeyRun> runs);
struct BoundScoreArguments {
  View q;
  const AttendShape& shape;
  std::span<const std::byte* const> rows;
  int tokens;
  int granule_tokens;
  View scores, weights;
};
void check_score_bounds(const BoundScoreArguments& arguments);
void check_sum_attention(const View& q, const AttendShape& shape, std::span<const KvSpan> spans, const View& states,
                         int granule_tokens, const View& sums);
struct SumSelectedArguments {
  View q;
  const AttendShape& shape;
  const SelectedKv& kv;
  View ids, states;
  int tokens;
  View sums;
};
void check_sum_selected(const SumSelectedArguments& arguments);

void check_choose_granules(const View& weights, const GranuleChoice& choice, const View& ids);
void check_attend_selected(const View& q, const AttendShape& shape, const SelectedKv& kv, const View& states);

}  // namespace spillway

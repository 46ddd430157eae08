// Attention over one span and the algebra of partial softmax states (the online softmax of arXiv 1805.02867), in
// double.
#pragma once

#include <cstdint>

#include "kernels/kv_span.h"
#include "kernels/ops.h"
#include "kernels/view.h"

namespace spillway::reference {

// Makes the states [heads x attn_state_floats] empty.
void clear_states(const AttendShape& shape, float* states);
// values [head_dim] = the key of this token and KV head, or its value; of a granule, a token of it.
void load_token(const KvFormat& format, const KvSpan& span, int token, int kv_head, bool value, double* values);
void load_token(const KvFormat& format, const GranulePlace& place, int token, bool value, double* values);
// Tokens [begin, end) of a span.
struct TokenRange {
  int begin = 0;
  int end = 0;
};
// Folds these tokens of the span into the states, for the query row q [heads x head_dim]. The states are
// rounded to float here, once for each span, so it is all the same how spans are shared out over calls.
void fold_span(const AttendShape& shape, const float* q, const KvSpan& span, const TokenRange& range, float* states);
// The states [heads x attn_state_floats] of granules [first, first + kv.granules_per_state()) of every KV head.
void attend_granules(const AttendShape& shape, const float* q, const SelectedKv& kv, int first, float* states);
// out [heads x head_dim] = the merged and divided states of one row; zero where all are empty.
void merge_states(const AttendShape& shape, const View& states, const MergeTask& task, float* out);

}  // namespace spillway::reference

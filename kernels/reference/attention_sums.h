// Accumulated attention, in double precision and plain loops (Ops::sum_attention).
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace spillway::reference {

// All rows of a chunk against one span.
void sum_span(const View& q, int first_position, const AttendShape& shape, const KvSpan& span, const View& states,
              int granule_tokens, const View& sums);
// q [heads x head_dim].
void sum_granules(const float* q, const AttendShape& shape, const SelectedKv& kv, const View& ids, const View& states,
                  int tokens, const View& sums);

}  // namespace spillway::reference

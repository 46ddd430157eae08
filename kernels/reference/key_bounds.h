// Bounds of keys, and what granules could weigh by them, in double precision and plain loops (kernels/selection.h).
#pragma once

#include <cstddef>
#include <span>

#include "kernels/ops.h"
#include "kernels/selection.h"

namespace spillway::reference {

void key_bounds(const KvFormat& kv, const KeyBoundsFormat& format, const PartialKeyRun& run);
// q [heads x head_dim]; weights [kv_heads x granules].
void score_bounds(const float* q, const AttendShape& shape, const KeyBoundsFormat& format,
                  std::span<const std::byte* const> rows, const View& weights);

}  // namespace spillway::reference

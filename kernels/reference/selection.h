// Which granules a decode step attends to, in double precision and plain loops (kernels/selection.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "kernels/selection.h"

namespace spillway::reference {

void partial_keys(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                  const PartialKeyRun& run);
// values [rank] = the partial key of one token and head of a page row.
void load_partial_key(const PartialKeyFormat& format, const std::byte* row, int kv_head, int token, double* values);
// q [heads x head_dim]; weights [kv_heads x granules].
void score_keys(const float* q, const AttendShape& shape, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                std::span<const std::byte* const> rows, int tokens, int granule_tokens, const View& weights);
// ids [choice.count] of weights [choice.granules].
void choose_granules(const float* weights, const GranuleChoice& choice, int32_t* ids);

}  // namespace spillway::reference

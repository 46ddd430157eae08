// Ops::key_bounds and Ops::score_bounds on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"
#include "kernels/selection.h"

namespace spillway {

// One KV head of a run.
void key_bounds(const CpuKernels& kernels, const KvFormat& kv, const KeyBoundsFormat& format, const PartialKeyRun& run,
                int head);

struct ScoreBoundsCall {
  View q;
  AttendShape shape;
  KeyBoundsFormat format;
  std::vector<const std::byte*> rows;
  View scratch, weights;
};
void run_score_bounds(const CpuKernels& kernels, Team& team, const ScoreBoundsCall& call);

}  // namespace spillway

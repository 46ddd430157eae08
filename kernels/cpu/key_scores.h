// Ops::score_keys on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace spillway {

struct ScoreKeysCall {
  View q;
  AttendShape shape;
  PartialKeyFormat format;
  PartialKeyBasis basis;
  std::vector<const std::byte*> rows;
  int tokens = 0;
  int granule_tokens = 0;
  View scratch, weights;
};
// Memory of worker w from memory + w * bytes on: float_scratch_floats.
struct WorkerScratch {
  std::byte* memory = nullptr;
  uint64_t bytes = 0;

  float* floats(int worker) const { return reinterpret_cast<float*>(memory + static_cast<uint64_t>(worker) * bytes); }
};
void run_score_keys(const CpuKernels& kernels, Team& team, const ScoreKeysCall& call, const WorkerScratch& scratch);

}  // namespace spillway

// How one matmul call is cut into tasks for the team.
#pragma once

#include <array>

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace spillway {

struct MatmulCall {
  View x;
  std::array<MatmulPart, kMostMatmulParts> parts;
  int count = 0;
};

// Scratch of a call: the quantised rows of x, then a tile for each worker.
struct MatmulScratch {
  ActBlock* x;
  std::byte* workers;
  uint64_t bytes_per_worker;
};

constexpr uint64_t act_bytes(int64_t rows, int64_t k) {
  return static_cast<uint64_t>(rows * (k / 32)) * sizeof(ActBlock);
}
constexpr uint64_t tile_bytes(int64_t k) { return static_cast<uint64_t>(k / 32) * kPackedBlockBytes; }

void run_matmul(const CpuKernels& kernels, Team& team, const MatmulCall& call, const MatmulScratch& scratch);

}  // namespace spillway

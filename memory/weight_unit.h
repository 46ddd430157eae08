// WeightUnit: what moves, and is resident or not: the rows of some matrices that one projection of one layer reads.
// Never assumed to be a whole layer: a large matrix is cut into blocks of rows, so that a ring of a few units suffices.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/view.h"
#include "memory/extent.h"

namespace spillway {

// The projections of a pass, in the order they are computed.
enum class Stage : uint8_t { qkv, attn_out, router, experts, gate_up, down, head };
inline constexpr const char* kStageNames[] = {"qkv", "attn_out", "router", "experts", "gate_up", "down", "head"};

// Rows [first_row, first_row + rows) of matrix number `matrix` of the stage (0: q or gate, 1: k or up, 2: v, or down of
// an expert).
struct WeightSlice {
  int matrix = 0;
  DType dtype = DType::f32;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  uint64_t offset = 0;  // of the first row in the unit's memory
};

// Contiguous bytes of a file, grown outwards to the drive's alignment: the aligned superset lands at `offset` in the
// unit.
struct WeightRun {
  Extent extent;        // aligned
  uint64_t offset = 0;  // in the unit's memory; aligned
  uint64_t needed = 0;  // leading bytes that must arrive (the superset may pass the end of the file)
};

struct WeightUnit {
  Stage stage = Stage::qkv;
  int layer = 0;
  int expert = 0;  // of Stage::experts: all of one expert
  std::vector<WeightSlice> slices;
  std::vector<WeightRun> runs;
  uint64_t bytes = 0;         // of memory, with the alignment's margins
  uint64_t weight_bytes = 0;  // of weights alone

  View view(const WeightSlice& slice, std::byte* memory) const {
    return View::dense(memory + slice.offset, slice.dtype, slice.rows, slice.cols);
  }
};

}  // namespace spillway

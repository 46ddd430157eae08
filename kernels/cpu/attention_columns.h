// How a row of queries is cut into tiles of attention (kernels/cpu/kernels.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/kernels.h"
#include "kernels/ops.h"

namespace spillway {

// The tasks of one row: each KV head with its group of query heads, cut where the group is larger than a tile.
struct AttentionColumns {
  explicit AttentionColumns(const AttendShape& shape)
      : group(shape.heads / shape.format.kv_heads),
        piece(std::min(group, kTileQueries)),
        pieces((group + piece - 1) / piece),
        count(int64_t{shape.format.kv_heads} * pieces),
        packed(shape.format.packed_page()) {}

  AttentionTile tile(const AttendShape& shape, int64_t column, const View& q, const View& states,
                     float* scratch) const {
    const int64_t kv_head = column / pieces;
    const int64_t head = kv_head * group + column % pieces * piece;
    AttentionTile t{};
    t.dtype = shape.format.dtype;
    t.head_offset = kv_head * shape.format.page_bytes();
    t.packed = packed;
    t.packed_head_offset = kv_head * packed.bytes();
    t.head_dim = shape.format.head_dim;
    t.heads = static_cast<int>(std::min<int64_t>(piece, (kv_head + 1) * group - head));
    t.rows = static_cast<int>(q.rows);
    t.q = q.f32() + head * t.head_dim;
    t.q_stride = q.stride;
    t.scale = shape.scale;
    t.states = states.f32() + head * attn_state_floats(t.head_dim);
    t.states_stride = states.stride;
    t.scratch = scratch;
    return t;
  }

  int group;
  int piece;
  int pieces;
  int64_t count;
  PackedPage packed;
};

}  // namespace spillway

// Groups of heads, as attention's operations are given them.
#pragma once

#include <cmath>

#include "kernels/ops.h"

namespace spillway {

struct HeadGroups {
  int group;  // query heads of a KV head
  int kv_heads;
  int head_dim;

  AttendShape attend(KvCodec codec = KvCodec::f16) const {
    return {{DType::f16, kv_heads, head_dim, codec}, group * kv_heads, 1.0f / std::sqrt(static_cast<float>(head_dim))};
  }
  ModelShape model() const {
    ModelShape shape;
    shape.heads = group * kv_heads;
    shape.kv_heads = kv_heads;
    shape.head_dim = head_dim;
    return shape;
  }
};

inline constexpr KvCodec kPackers[] = {KvCodec::q8, KvCodec::q4, KvCodec::kivi4, KvCodec::kivi2};

}  // namespace spillway

// A thread block of decode attention: one query row against up to eight pages' worth of tokens of one KV head, for up
// to eight heads of its group; wherever the tokens lie (attention.cu: pages of a span; attend_selected.cu: granules).
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/kv_span.h"

namespace spillway::cuda {

constexpr int kAttendWarps = kPagesPerSpan;
constexpr int kAttendThreads = kAttendWarps * kWarpLanes;
constexpr float kNothing = -INFINITY;

struct AttendSizes {
  int head_dim;
  int group;
  int state_floats;
  int region;  // floats of shared memory for each warp: scores, later the sums over V
  float scale;
};

// What a lane holds of a token: kLoads times 16 bytes.
template <typename Elements, int kLoads>
struct Piece {
  static constexpr int kSixteens = kLoads;
  static constexpr int kCount = kLoads * Elements::kCount;
  static constexpr int kElementBytes = 16 / Elements::kCount;
  __device__ __forceinline__ static void unpack(const uint4 (&held)[kLoads], float* values) {
#pragma unroll
    for (int l = 0; l < kLoads; l++) Elements::unpack(held[l], values + l * Elements::kCount);
  }
};

// Which part of the work a lane has: kLanes lanes hold the pieces of one token, the other lanes further tokens.
template <typename Kv, int kLanes>
struct LanePlace {
  int piece;     // elements [piece, piece + Kv::kCount) of a head
  int token;     // of the tokens loaded together
  bool in_head;  // head_dim may end before the last lane

  __device__ __forceinline__ LanePlace(int lane, int head_dim)
      : piece(lane % kLanes * Kv::kCount), token(lane / kLanes), in_head(piece < head_dim) {}
};

// Pieces, for each lane. One span of few KV heads leaves most of a GPU idle: then a warp's own loads decide, and a
// page of 64 tokens is a chain of few round trips to memory. Many query heads need the registers.
constexpr int loads_in_flight(int heads, int sixteens) { return (heads <= 4 ? 8 : 4) / sixteens; }

// What follows reads a page's worth of tokens from a Source, whose
//   for_each_token<Kv, kLanes, kHeads>(value, place, hidden, tokens, visit)
// calls visit(token, elements) for the lane's tokens of [0, tokens rounded up), in order, with pieces of keys, or of
// values; those before `hidden`, absent tokens and absent elements are zero.

// scores[g * kPageTokens + t] = scale * q[g] . k[t].
template <typename Kv, int kLanes, int kHeads, typename Source>
__device__ __forceinline__ void score_page(const AttendSizes& a, const float* q, int heads, const Source& source,
                                           int tokens, Shared<float> scores, int lane) {
  const LanePlace<Kv, kLanes> place(lane, a.head_dim);
  float query[kHeads][Kv::kCount];
#pragma unroll
  for (int g = 0; g < kHeads; g++) {
#pragma unroll
    for (int e = 0; e < Kv::kCount; e++) {
      query[g][e] = g < heads && place.in_head ? q[g * a.head_dim + place.piece + e] : 0.0f;
    }
  }
  source.template for_each_token<Kv, kLanes, kHeads>(false, place, 0, tokens, [&](int token, const float* k) {
    float dot[kHeads] = {};
#pragma unroll
    for (int g = 0; g < kHeads; g++) {
#pragma unroll
      for (int e = 0; e < Kv::kCount; e++) dot[g] = fmaf(query[g][e], k[e], dot[g]);
    }
    lane_sums<kHeads, kLanes / 2>(dot, lane);
    if (token < tokens && writes_sum<kHeads, kLanes / 2>(lane)) {
      scores[summed_index<kHeads, kLanes / 2>(lane) * kPageTokens + token] = dot[0] * a.scale;
    }
  });
}

// Scores become weights exp(score - max), zero outside the page's tokens [hidden, tokens); lane 0 notes max and sum of
// each head.
template <int kHeads>
__device__ __forceinline__ void weigh_page(int hidden, int tokens, Shared<float> scores, Shared<float> max_of,
                                           Shared<float> sum_of, int lane) {
  const bool has_low = lane >= hidden && lane < tokens;
  const bool has_high = lane + kWarpLanes >= hidden && lane + kWarpLanes < tokens;
#pragma unroll
  for (int g = 0; g < kHeads; g++) {
    const int at = g * kPageTokens + lane;
    const float low = has_low ? static_cast<float>(scores[at]) : kNothing;
    const float high = has_high ? static_cast<float>(scores[at + kWarpLanes]) : kNothing;
    float largest = fmaxf(low, high);
#pragma unroll
    for (int offset = kWarpLanes / 2; offset >= 1; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, offset));
    }
    const float low_weight = has_low ? exp_of_negative(low - largest) : 0.0f;
    const float high_weight = has_high ? exp_of_negative(high - largest) : 0.0f;
    scores[at] = low_weight;
    scores[at + kWarpLanes] = high_weight;
    const float sum = lane_sum<kWarpLanes / 2>(low_weight + high_weight);
    if (lane == 0) {
      max_of[g] = largest;
      sum_of[g] = sum;
    }
  }
}

// sums[g * head_dim + d] = sum over the page's tokens [hidden, tokens) of weight * v; takes the place of the weights.
template <typename Kv, int kLanes, int kHeads, typename Source>
__device__ __forceinline__ void sum_page(const AttendSizes& a, const Source& source, int hidden, int tokens,
                                         Shared<float> weights, int lane) {
  const LanePlace<Kv, kLanes> place(lane, a.head_dim);
  constexpr int kSums = kHeads * Kv::kCount;
  float acc[kSums] = {};
  source.template for_each_token<Kv, kLanes, kHeads>(true, place, hidden, tokens, [&](int token, const float* v) {
#pragma unroll
    for (int g = 0; g < kHeads; g++) {
      const float weight = weights[g * kPageTokens + token];
#pragma unroll
      for (int e = 0; e < Kv::kCount; e++) acc[g * Kv::kCount + e] = fmaf(weight, v[e], acc[g * Kv::kCount + e]);
    }
  });
  lane_sums<kSums, kWarpLanes / 2, kLanes>(acc, lane);
  __syncwarp();  // the weights have been read
  if (!place.in_head) return;
  const int first = summed_index<kSums, kWarpLanes / 2, kLanes>(lane);
#pragma unroll
  for (int i = 0; i < kSums * kLanes / kWarpLanes; i++) {
    const int g = (first + i) / Kv::kCount;
    weights[g * a.head_dim + place.piece + (first + i) % Kv::kCount] = acc[i];
  }
}

// The states of pages [first_page, pages) folded into one, in order; page w's sums begin at sums[w * region].
template <int kHeads>
__device__ __forceinline__ void fold_pages(const AttendSizes& a, int first_page, int pages, int heads,
                                           Shared<float> sums, Shared<float> max_of, Shared<float> sum_of,
                                           float* states) {
  for (int i = static_cast<int>(threadIdx.x); i < heads * a.state_floats; i += kAttendThreads) {
    const int g = i / a.state_floats;
    const int d = i % a.state_floats;
    float largest = kNothing;
    for (int w = first_page; w < pages; w++) largest = fmaxf(largest, max_of[w * kHeads + g]);
    float result = 0.0f;
    for (int w = first_page; w < pages; w++) {
      const float factor = exp_of_negative(max_of[w * kHeads + g] - largest);
      const float part = d < a.head_dim ? sums[w * a.region + g * a.head_dim + d] : sum_of[w * kHeads + g];
      result = fmaf(part, factor, result);
    }
    states[i] = d == a.head_dim ? largest : result;
  }
}

}  // namespace spillway::cuda

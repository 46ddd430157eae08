// What the two kernels of prefill attention share: one on tensor cores, one in plain arithmetic.
//
// A row's state is a fold over tiles of consecutive positions, cut from the start of each span, and nothing else enters
// into it. Tokens that a row does not see add nothing, be they numbers or not; and what is carried from tile to
// tile is what states hold between calls. So the other rows of a call, and which call folds a span, change no bit.
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {

struct ChunkLaunch {
  const KvSpan* spans;
  const std::byte* q;
  std::byte* states;
  uint64_t q_stride;
  uint64_t states_stride;
  int64_t page_bytes;
  PackedPage packed;  // of packed page rows; no bits: there are none
  int spans_count;
  int first_position;
  int window;  // 0: none
  int rows;
  int head_dim;
  int group;
  int state_floats;
  float scale;
  bool fresh;
};

// Query `index` of a KV head: the heads of its group at one row, then those at the next.
struct QueryPlace {
  int row;
  int64_t head;

  __device__ __forceinline__ QueryPlace(const ChunkLaunch& a, int kv_head, int index)
      : row(index / a.group), head(static_cast<int64_t>(kv_head) * a.group + index % a.group) {}
  __device__ __forceinline__ const float* query(const ChunkLaunch& a) const {
    return reinterpret_cast<const float*>(a.q + row * a.q_stride) + head * a.head_dim;
  }
  __device__ __forceinline__ float* state(const ChunkLaunch& a) const {
    return reinterpret_cast<float*>(a.states + row * a.states_stride) + head * a.state_floats;
  }
};

// The last position that queries [.., end) of a KV head see, plus one.
__device__ __forceinline__ int end_position(const ChunkLaunch& a, int end) {
  const int rows = (end - 1) / a.group + 1;
  return a.first_position + (rows < a.rows ? rows : a.rows);
}

// Tokens from `position` on that have left the window of `row`; may be negative.
__device__ __forceinline__ int hidden_tokens(const ChunkLaunch& a, int row, int position) {
  return a.window == 0 ? 0 : a.first_position + row + 1 - a.window - position;
}

// For `kv_heads` KV heads. The first takes pages of F16 and BF16, of which compute capability 7.5 knows F16 alone.
cudaError_t launch_chunk_on_tensor_cores(cudaStream_t stream, DType type, const ChunkLaunch& launch, int kv_heads);
cudaError_t launch_chunk_plain(cudaStream_t stream, DType type, const ChunkLaunch& launch, int kv_heads);

}  // namespace spillway::cuda

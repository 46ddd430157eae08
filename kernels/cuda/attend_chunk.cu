// Prefill attention: which kernel runs.
#include "kernels/cuda/attend_chunk.cuh"

namespace spillway::cuda {
namespace {

// bfloat16 on tensor cores came with compute capability 8.0, F16 before.
bool on_tensor_cores(DType type, int compute_major) {
  return type == DType::f16 || (type == DType::bf16 && compute_major >= 8);
}

}  // namespace

cudaError_t launch_attend_chunk(cudaStream_t stream, const CudaAttendChunk& args) {
  const KvFormat& format = args.shape.format;
  SPILLWAY_CHECK(args.q.dtype == DType::f32 && args.states.dtype == DType::f32 && args.states.rows == args.q.rows);
  SPILLWAY_CHECK(args.shape.heads % format.kv_heads == 0);
  SPILLWAY_CHECK(args.q.cols == static_cast<int64_t>(args.shape.heads) * format.head_dim);
  SPILLWAY_CHECK(args.states.cols == static_cast<int64_t>(args.shape.heads) * attn_state_floats(format.head_dim));
  if (args.q.rows == 0) return cudaSuccess;
  if (format.head_dim % 8 != 0 || format.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  if (format.packs() && format.dtype != DType::f16) return cudaErrorNotSupported;
  const ChunkLaunch a = {.spans = args.spans,
                         .q = args.q.data,
                         .states = args.states.data,
                         .q_stride = args.q.stride,
                         .states_stride = args.states.stride,
                         .page_bytes = static_cast<int64_t>(format.page_bytes()),
                         .packed = format.packed_page(),
                         .spans_count = args.spans_count,
                         .first_position = args.first_position,
                         .window = args.shape.window,
                         .rows = static_cast<int>(args.q.rows),
                         .head_dim = format.head_dim,
                         .group = args.shape.heads / format.kv_heads,
                         .state_floats = attn_state_floats(format.head_dim),
                         .scale = args.shape.scale,
                         .fresh = args.fresh};
  int device = 0;
  int compute_major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&compute_major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  return on_tensor_cores(format.dtype, compute_major)
             ? launch_chunk_on_tensor_cores(stream, format.dtype, a, format.kv_heads)
             : launch_chunk_plain(stream, format.dtype, a, format.kv_heads);
}

}  // namespace spillway::cuda

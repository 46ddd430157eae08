// What module.cu puts into the table: one launcher for each operation, and the profiler's side (nvtx.cu).
#pragma once

#include "kernels/cuda/gpu.cuh"
#include "kernels/cuda/module.h"

namespace spillway::cuda {

// An error where the module has no code for the device that is in use.
cudaError_t find_code();
cudaError_t launch_put(cudaStream_t stream, std::byte* destination, const std::byte* source, uint64_t bytes);
cudaError_t launch_put_words(cudaStream_t stream, std::byte* destination, const CudaWord* words, int count);
cudaError_t launch_dequantize(cudaStream_t stream, const CudaDequantize& arguments);
cudaError_t launch_norm(cudaStream_t stream, const CudaNorm& arguments);
cudaError_t launch_rotate(cudaStream_t stream, const CudaRotate& arguments);
cudaError_t launch_matvec(cudaStream_t stream, const CudaMatvec& arguments);
cudaError_t launch_matmul(cudaStream_t stream, const CudaMatmul& arguments);
cudaError_t launch_append(cudaStream_t stream, const CudaAppend& arguments);
cudaError_t launch_rotate_append(cudaStream_t stream, const CudaRotateAppend& arguments);
cudaError_t launch_seal(cudaStream_t stream, const CudaSeal& arguments);
cudaError_t launch_attend(cudaStream_t stream, const CudaAttend& arguments);
cudaError_t launch_attend_chunk(cudaStream_t stream, const CudaAttendChunk& arguments);
cudaError_t launch_merge(cudaStream_t stream, const CudaMerge& arguments);
cudaError_t launch_layer_norm(cudaStream_t stream, const CudaLayerNorm& arguments);
cudaError_t launch_add(cudaStream_t stream, const CudaAdd& arguments);
cudaError_t launch_scale(cudaStream_t stream, const CudaScale& arguments);
cudaError_t launch_activate(cudaStream_t stream, const CudaActivate& arguments);
cudaError_t launch_route(cudaStream_t stream, const CudaRoute& arguments);
cudaError_t launch_experts(cudaStream_t stream, const CudaExperts& arguments);
cudaError_t launch_combine(cudaStream_t stream, const CudaCombine& arguments);
cudaError_t launch_candidates(cudaStream_t stream, const CudaCandidates& arguments);
cudaError_t launch_gather(cudaStream_t stream, const CudaGather& arguments);
cudaError_t launch_gather_runs(cudaStream_t stream, const CudaGatherRuns& arguments);
cudaError_t launch_partial_keys(cudaStream_t stream, const CudaPartialKeys& arguments);
cudaError_t launch_score_keys(cudaStream_t stream, const CudaScoreKeys& arguments);
cudaError_t launch_key_bounds(cudaStream_t stream, const CudaKeyBounds& arguments);
cudaError_t launch_score_bounds(cudaStream_t stream, const CudaScoreBounds& arguments);
cudaError_t launch_sum_attention(cudaStream_t stream, const CudaSumAttention& arguments);
cudaError_t launch_sum_selected(cudaStream_t stream, const CudaSumSelected& arguments);
cudaError_t launch_choose_granules(cudaStream_t stream, const CudaChooseGranules& arguments);
cudaError_t launch_attend_selected(cudaStream_t stream, const CudaAttendSelected& arguments);

// Speed of a product of two square matrices by cuBLAS (module.h).
CudaProblem product_speed(int32_t size, double* flops);

bool profiled();
void push_range(const char* name, uint64_t bytes);
void pop_range();
void name_stream(CudaStream stream, const char* name);

// Rows of 32-bit floats may lie at any multiple of 4; 16-byte accesses need both of these.
inline bool aligned16(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && (view.rows <= 1 || view.stride % 16 == 0);
}

}  // namespace spillway::cuda

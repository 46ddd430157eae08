// The feed-forward parts of the experts that are here, each on the rows that go to it. Up to eight rows of an expert
// are multiplied by the matrix-vector kernels, for one reading of its weights, and more by the tiles of `matmul`; F32,
// and BF16 where tensor cores do not know it, eight rows at a time. So an expert's products are those of `matvec` or
// `matmul` with its rows, to the bit. How many it has is known on the device alone: there is a thread block for each
// place, or for as many tiles as any choice takes, and those that have nothing to do end at once.
#include <algorithm>
#include <initializer_list>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/expert_rows.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/quantize.cuh"

namespace spillway::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kElements = 4;          // of a thread
constexpr int kMostPlaces = 1 << 15;  // of a grid

struct GatedRows {
  std::byte* gate;
  const std::byte* up;
  uint64_t gate_stride;
  uint64_t up_stride;
  int cols;
};

template <Activation kKind>
__global__ void __launch_bounds__(kThreads) activate_places(GatedRows g, RowsOfExperts rows) {
  const int place = rows.first_place + static_cast<int>(blockIdx.x);
  if (!rows.here(place)) return;
  float* gate = reinterpret_cast<float*>(g.gate + place * g.gate_stride);
  const float* up = reinterpret_cast<const float*>(g.up + place * g.up_stride);
  const int first = static_cast<int>(blockIdx.y * kElements * kThreads + threadIdx.x);
#pragma unroll
  for (int i = 0; i < kElements; i++) {
    const int at = first + i * kThreads;
    if (at < g.cols) gate[at] = activated<kKind>(gate[at]) * up[at];
  }
}

// Calls launch(rows, places) with rows.first_place of each grid's worth of places: all of one phase before the next,
// for rows that share a reading of the weights may lie on both sides of a cut.
template <typename Launch>
cudaError_t in_grids(RowsOfExperts rows, int64_t places, const Launch& launch) {
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < places && error == cudaSuccess; first += kMostPlaces) {
    rows.first_place = static_cast<int>(first);
    error = launch(rows, static_cast<int>(places - first < kMostPlaces ? places - first : kMostPlaces));
  }
  return error;
}

template <Activation kKind>
cudaError_t launch_activation(cudaStream_t stream, const CudaExperts& a, const RowsOfExperts& all) {
  const GatedRows g = {.gate = a.gate.data,
                       .up = a.up.data,
                       .gate_stride = a.gate.stride,
                       .up_stride = a.up.stride,
                       .cols = static_cast<int>(a.gate.cols)};
  return in_grids(all, a.routes.places(), [&](const RowsOfExperts& rows, int places) {
    const dim3 grid(static_cast<uint32_t>(places), static_cast<uint32_t>(ceil_div(g.cols, kElements * kThreads)));
    return launch(activate_places<kKind>, grid, dim3(kThreads), 0, stream, g, rows);
  });
}

cudaError_t launch_activation(cudaStream_t stream, const CudaExperts& a, const RowsOfExperts& rows) {
  switch (a.kind) {
    case Activation::silu:
      return launch_activation<Activation::silu>(stream, a, rows);
    case Activation::gelu:
      return launch_activation<Activation::gelu>(stream, a, rows);
    case Activation::relu:
      return launch_activation<Activation::relu>(stream, a, rows);
  }
  return cudaErrorNotSupported;
}

// Of the experts with many rows; x has been quantised where a weight is.
cudaError_t launch_tiles(cudaStream_t stream, const CudaMatvec& call, const MatvecShape& shape,
                         const TilesOfExperts& tiles, const Hardware& hardware) {
  const TiledX x = CodesForExperts::in(shape).many;
  cudaError_t error = cudaSuccess;
  for (const DType type : kQuantisedTypes) {
    if (error != cudaSuccess) return error;
    error = type == DType::q8_0 || type == DType::q4_0 || type == DType::q4_1
                ? launch_expert_tiles_quantized(stream, call, type, x, tiles)
                : launch_expert_tiles_blocks(stream, call, type, x, tiles);
  }
  // From here on the scratch is another's: of F16.
  for (const DType type : {DType::f16, DType::bf16}) {
    if (error == cudaSuccess && hardware.has_tensor_cores_for(type)) {
      error = launch_expert_tiles_half(stream, call, type, shape, tiles);
    }
  }
  return error;
}

// The products of one x with the matrices of ExpertData from `first` on.
cudaError_t launch_products(cudaStream_t stream, const CudaExperts& a, const View& x, ExpertData::Matrix first,
                            std::initializer_list<MatmulPart> parts) {
  const CudaMatvec call = {.x = x,
                           .parts = parts.begin(),
                           .parts_count = static_cast<int32_t>(parts.size()),
                           .scratch = a.scratch,
                           .scratch_bytes = a.scratch_bytes};
  const RowsOfExperts all = {.first = a.routes.first(),
                             .expert = a.routes.expert(),
                             .data = a.experts,
                             .first_place = 0,
                             .first_matrix = first,
                             .most_rows = kMatvecRowsOfX};
  Hardware hardware;
  cudaError_t error = check_parts(call);
  if (error == cudaSuccess) error = ask(&hardware);
  MatvecShape shape = shape_of(call);
  shape.one_row = a.routes.rows == 1;
  if (error == cudaSuccess && has_quantized_part(call)) {
    error = in_grids(all, x.rows, [&](const RowsOfExperts& rows, int places) {
      return launch_quantize(stream, shape, rows, places);
    });
  }
  for (const DType type : kWeightTypes) {
    if (error != cudaSuccess) break;
    shape.splits = splits_of(type, shape.x.cols);
    const MatvecWeights weights = gather_parts(call, type, kMatvecWarps / shape.splits * matvec_step(type).rows);
    if (weights.count == 0) continue;
    RowsOfExperts few = all;
    if (!is_quantized(type) && !hardware.has_tensor_cores_for(type)) few.most_rows = INT32_MAX;
    error = in_grids(few, x.rows, [&](const RowsOfExperts& rows, int places) {
      return is_quantized(type) ? launch_experts_quantized(stream, type, weights, shape, rows, places)
                                : launch_experts_float(stream, type, weights, shape, rows, places);
    });
  }
  // No expert has more rows than there are.
  if (error != cudaSuccess || a.routes.rows <= kMatvecRowsOfX) return error;
  return launch_tiles(stream, call, shape, {all, a.routes.experts, x.rows}, hardware);
}

}  // namespace

cudaError_t launch_experts(cudaStream_t stream, const CudaExperts& a) {
  SPILLWAY_CHECK(a.rows.dtype == DType::f32 && a.gate.dtype == DType::f32 && a.up.dtype == DType::f32);
  // Where the weights lie each thread block finds out; any address stands for it here.
  const auto part = [&](View weight, const View& out) {
    weight.data = a.rows.data;
    return MatmulPart{weight, out};
  };
  if (a.routes.places() == 0) return cudaSuccess;
  SPILLWAY_CHECK(a.scratch_bytes >= cuda_experts_scratch_bytes(a.routes.places(), std::max(a.rows.cols, a.gate.cols)));
  cudaError_t error =
      launch_products(stream, a, a.rows, ExpertData::gate, {part(a.gate_weight, a.gate), part(a.up_weight, a.up)});
  const RowsOfExperts rows = {.first = a.routes.first(),
                              .expert = a.routes.expert(),
                              .data = a.experts,
                              .first_place = 0,
                              .first_matrix = 0,
                              .most_rows = INT32_MAX};
  if (error == cudaSuccess) error = launch_activation(stream, a, rows);
  if (error != cudaSuccess) return error;
  return launch_products(stream, a, a.gate, ExpertData::down, {part(a.down_weight, a.rows)});
}

}  // namespace spillway::cuda

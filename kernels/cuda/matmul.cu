// Products of many rows of x: which kernels run. Quantised weights, F16 and BF16 go to the tensor cores. F32 weights
// are multiplied by the matrix-vector kernel, eight rows of x at a time: they are few in any model (norms and routers,
// not projections), three or more bfloat16 products for each of theirs would be slower than plain multiply-adds on
// consumer GPUs, and so their bits are the same for any number of rows. BF16 goes the same way where tensor cores do
// not know it (compute capability 7.5).
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/matmul.cuh"

namespace spillway::cuda {
namespace {

struct TileRows {
  Tile tile;
  int x, weight;
};
constexpr TileRows kTiles[] = {
    {Tile::x128_rows128, 128, 128}, {Tile::x64_rows64, 64, 64}, {Tile::x32_rows32, 32, 32}, {Tile::x16_rows32, 16, 32}};

}  // namespace

cudaError_t ask(Hardware* hardware) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&hardware->compute_major, cudaDevAttrComputeCapabilityMajor, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&hardware->multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  return error;
}

Tile choose_tile(const CudaMatvec& a, DType type, int rows_of_x, const Hardware& hardware) {
  for (const TileRows& tile : kTiles) {
    if (tile.tile == Tile::x16_rows32) break;
    if (rows_of_x <= tile.x / 2) continue;  // at least half of it would be empty
    int64_t blocks = 0;
    for (int p = 0; p < a.parts_count; p++) {
      if (a.parts[p].weight.dtype == type) blocks += ceil_div(a.parts[p].weight.rows, tile.weight);
    }
    if (4 * blocks * ceil_div(rows_of_x, tile.x) >= 3 * hardware.multiprocessors) return tile.tile;
  }
  return Tile::x16_rows32;
}

cudaError_t launch_matmul(cudaStream_t stream, const CudaMatmul& a) {
  cudaError_t error = check_parts(a);
  if (error != cudaSuccess || a.x.rows == 0) return error;
  Hardware hardware;
  error = ask(&hardware);
  const MatvecShape shape = shape_of(a);
  const TiledX tiled = TiledX::in(shape);
  if (error == cudaSuccess && has_quantized_part(a) && !a.x_is_ready) error = launch_quantize(stream, shape, tiled);
  for (const DType type : kQuantisedTypes) {
    if (error != cudaSuccess) break;
    error = type == DType::q8_0 || type == DType::q4_0 || type == DType::q4_1
                ? launch_matmul_quantized(stream, a, type, tiled, hardware)
                : launch_matmul_blocks(stream, a, type, tiled, hardware);
  }
  // From here on the scratch is another's: of F16.
  for (const DType type : {DType::f16, DType::bf16, DType::f32}) {
    if (error != cudaSuccess) break;
    error = hardware.has_tensor_cores_for(type) ? launch_matmul_half(stream, a, type, shape, hardware)
                                                : launch_matvec_type(stream, a, type, shape);
  }
  return error;
}

}  // namespace spillway::cuda

// The table of the instruction set whose kernels were included before.

namespace spillway {
namespace {

constexpr CpuKernels kKernels = {
    .name = kKernelsName,
    .quantize = quantize,
    .pack = pack,
    .product_in_place = product_in_place,
    .product_packed = product_packed,
    .product_float = product_float,
    .attend = attend,
    .attend_chunk = attend_chunk,
    .unpack_keys = unpack_keys,
    .score_page = score_page,
    .sum_granules = sum_granules,
    .score_bounds = score_bounds,
    .softmax = softmax_part,
    .merge = merge,
    .norm = norm,
    .layer_norm = layer_norm,
    .add = add_row,
    .scale = scale_row,
    .activate = activate,
    .rotate = rotate,
    .to_f16 = to_f16,
    .widen = widen,
};

}  // namespace
}  // namespace spillway

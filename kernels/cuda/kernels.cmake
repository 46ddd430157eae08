# The CUDA module's sources that the tests' emulation compiles too (tests/support/cuda_emulation).
set(cuda_kernels
  activate
  append
  attend_chunk
  attend_chunk_plain
  attend_chunk_tensor_cores
  attend_selected
  attention
  candidates
  choose_granules
  dequantize
  experts
  gather
  key_bounds
  layer_norm
  matmul
  matmul_blocks
  matmul_half
  matmul_quantized
  matvec
  matvec_float
  matvec_quantized
  merge
  module
  norm
  partial_keys
  product_speed
  put
  quantize
  rotate
  route
  rows
  score_keys
  seal
  sum_attention)
list(TRANSFORM cuda_kernels PREPEND ${PROJECT_SOURCE_DIR}/kernels/cuda/)
list(TRANSFORM cuda_kernels APPEND .cu)

// The devices that the grid of operations (tests/kernels/op_grid_*_test.cpp) runs on. One more backend is one more row.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/ops.h"

namespace spillway {

enum class OpKind : uint32_t {
  dequantize = 1,
  norm = 2,
  matmul = 4,
  rotate = 8,
  append = 16,
  attend = 32,
  attend_chunk = 64,
  merge = 128,
  activate = 256,
  candidates = 512,
  layer_norm = 1024,
  add = 2048,
  scale = 4096,
  route = 8192,  // and experts, and combine
  all = 16383,
};

struct Backend {
  std::string name;
  std::function<std::unique_ptr<Device>(int threads)> make;
  uint32_t ops = static_cast<uint32_t>(OpKind::all);  // those it has, of OpKind
  // Rounding of a fused or an unfused multiply-add, relative to the terms: products rounded on their own count twice.
  bool fused = true;
  // In products with quantised weights, activations become int8 by blocks of 32 (kernels/cpu/kernels.h).
  bool quantises_activations = true;
  // A decode step takes the very steps of prefill, so that the two agree to the bit.
  bool decodes_as_prefill = true;
  // Prefill attention rounds queries and weights to halves.
  bool attends_in_halves = false;
  bool emulated = false;  // slow: fewer cases of the large sizes

  bool has(OpKind op) const { return (ops & static_cast<uint32_t>(op)) != 0; }
};

inline std::ostream& operator<<(std::ostream& out, const Backend& backend) { return out << backend.name; }

// Those that this machine can run; the CUDA kernels under emulation, and on a GPU where there is one.
std::vector<Backend> backends();

}  // namespace spillway

// How a skew lies in its file: for who writes it and who reads it.
#pragma once

#include <string>
#include <vector>

#include "runtime/skew.h"

namespace spillway {

inline constexpr int kSkewFormat = 2;
inline constexpr int kMostAhead = 2;
inline constexpr const char* kSkewType = "skew";  // general.type
inline constexpr const char* kSkewVersion = "skew.version";
inline constexpr const char* kSkewFingerprint = "skew.fingerprint";
inline constexpr const char* kSkewTextName = "skew.text.name";
inline constexpr const char* kSkewTextHash = "skew.text.xxh3";
inline constexpr const char* kSkewContext = "skew.context";
inline constexpr const char* kSkewAhead = "skew.ahead";
inline constexpr const char* kSkewGuess = "skew.query";

struct SkewTensor {
  std::string name;
  TensorInfo SkewLayer::*member;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Of the foretelling matrix: Q4_0 where its rows divide into blocks, for it is kept on the device (what its roundings
// cost is in ARCHITECTURE.md).
constexpr DType matrix_type(const ModelShape& shape) {
  return shape.hidden % info(DType::q4_0).block_elements == 0 ? DType::q4_0 : DType::f32;
}

// A layer's tensors in the order in which they lie. `foretold`: with a matrix of its own for the query.
std::vector<SkewTensor> skew_tensors(const ModelShape& shape, int layer, bool foretold);

// Of a model's ridge before it is made, the shapes and sizes of its tensors: a plan asks for no more. Its context is 0.
Skew skew_to_come(const ModelSpec& spec, int ahead);

}  // namespace spillway

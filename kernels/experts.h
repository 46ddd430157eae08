// A choice of experts: feed-forward parts of a layer of which a router sends each row to a few (mixture of experts,
// arXiv 1701.06538; as in Mixtral, arXiv 2401.04088, section 2.1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/view.h"

namespace spillway {

// Which rows go to which experts, in device memory. A place is one row with one of its experts: rows * used of them,
// ordered by expert, and within one by row. So the rows of an expert lie together, and their number is known.
struct ExpertRoutes {
  std::byte* data = nullptr;  // bytes(), aligned to 4
  int64_t rows = 0;
  int experts = 0;
  int used = 0;  // experts of a row

  bool operator==(const ExpertRoutes&) const = default;
  constexpr int64_t places() const { return rows * used; }
  // [experts + 1]: the first place of each expert; the last one is places(). First of all, so that a host that needs
  // no more copies no more.
  int32_t* first() const { return reinterpret_cast<int32_t*>(data); }
  constexpr uint64_t first_bytes() const { return (static_cast<uint64_t>(experts) + 1) * sizeof(int32_t); }
  int32_t* chosen() const { return first() + experts + 1; }    // [rows x used]: a row's experts, ascending
  int32_t* place() const { return chosen() + places(); }       // [rows x used]: of the row with that expert
  int32_t* expert() const { return chosen() + 2 * places(); }  // [places]
  float* weight() const { return reinterpret_cast<float*>(chosen() + 3 * places()); }  // [rows x used]
  constexpr uint64_t bytes() const { return first_bytes() + 4 * static_cast<uint64_t>(places()) * sizeof(int32_t); }
};

// The three matrices of one expert, rows side by side; null where the expert is not here.
struct ExpertData {
  enum Matrix : uint8_t { gate, up, down };
  const std::byte* matrix[3] = {};

  bool operator==(const ExpertData&) const = default;
  constexpr bool here() const { return matrix[gate] != nullptr; }
};

// gate, up [ffn x hidden] and down [hidden x ffn]: type and shape of every expert's, without data.
struct ExpertWeights {
  View gate, up, down;
  std::span<const ExpertData> experts;  // of the layer, by their number; a host value, consumed before the call returns
};

}  // namespace spillway

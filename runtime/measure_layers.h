// Speeds of a model's own layers: a stretch of them, run through the very pass that runs them all. What matrices of
// their widths, norms, rotation, activations and the calls themselves take is in it; speeds by bytes and types,
// measured on large matrices (runtime/measure.h), say how that grows.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/device.h"
#include "runtime/hardware_profile.h"
#include "runtime/machine.h"
#include "runtime/model.h"
#include "runtime/options.h"

namespace spillway {

// The first layers of the model, as many as a cache cannot hold, and the head, in at most `most_bytes`. Nothing where
// one layer needs more. Loads them from the model's files. Throws Error(io) when the drive fails. Leaves the device's
// scratch unset.
std::optional<LayerTimes> measure_layers(const Model& model, const Options& options, Device& device,
                                         uint64_t most_bytes);

struct LayerWishes {
  uint64_t most_bytes = 0;  // that measuring may take
  std::string cache_file;   // empty: kept nowhere
  bool measure = true;      // false: only what the cache holds
  bool refresh = false;     // measure again, whatever was kept
  std::function<void(std::string_view line)> progress;
};

// From the cache of this machine, or measured and kept there.
std::optional<LayerTimes> layer_times(const Model& model, const Options& options, Device& device,
                                      const Machine& machine, const LayerWishes& wishes);

}  // namespace spillway

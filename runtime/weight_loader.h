// WeightLoader: brings what stays resident from the model's files to its place, once, at start. It goes through the
// page cache, so that the second start is fast; to a device that the host cannot address, by two halves of a piece of
// staging in turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "kernels/device.h"
#include "loader/checkpoint.h"
#include "memory/tier.h"

namespace spillway {

class WeightLoader {
 public:
  // staging: host memory; may be empty where the host addresses the device.
  WeightLoader(Device& device, const Checkpoint& checkpoint, std::span<std::byte> staging, Traffic& traffic);

  // The first `bytes` of the extent to a place in `tier`. Throws what File::read throws.
  void load(const Extent& extent, uint64_t bytes, Tier tier, std::byte* place);
  // Waits until all of it is there; throws what a copy met.
  void finish();

 private:
  const Checkpoint& checkpoint_;
  std::span<std::byte> staging_;
  Traffic& traffic_;
  std::unique_ptr<Stream> copies_;  // null where the host addresses the device
  Event half_free_[2];
  int half_ = 0;
};

}  // namespace spillway

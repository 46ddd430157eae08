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
#include "memory/weight_home.h"

namespace spillway {

class WeightLoader {
 public:
  // staging: host memory; may be empty where the host addresses the device.
  WeightLoader(Device& device, const Checkpoint& checkpoint, std::span<std::byte> staging, Traffic& traffic);

  // The first `bytes` of the extent to a place. Throws what File::read throws.
  void load(const Extent& extent, uint64_t bytes, const WeightPlace& place, Cause cause);
  // Bytes of host memory to a place on the device.
  void put(std::span<const std::byte> bytes, std::byte* place);
  // Waits until all of it is there; throws what a copy met.
  void finish();

 private:
  // Through staging to the device; fill(into, done) brings the bytes from `done` on.
  template <typename Fill>
  void stage(uint64_t bytes, std::byte* place, Cause cause, const Fill& fill);

  const Checkpoint& checkpoint_;
  std::span<std::byte> staging_;
  Traffic& traffic_;
  std::unique_ptr<Stream> copies_;  // null where the host addresses the device
  Event half_free_[2];
  int half_ = 0;
};

}  // namespace spillway

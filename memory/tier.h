// The three places a byte can be, and the links between them. Every byte that crosses a link is counted by link and
// cause.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "kernels/device.h"

namespace spillway {

enum class Tier : uint8_t { device, host, disk };
inline constexpr int kTiers = 3;
inline constexpr const char* kTierNames[kTiers] = {"device", "host", "disk"};

enum class Link : uint8_t { disk_read, disk_write, host_to_device, device_to_host };
inline constexpr int kLinks = 4;
inline constexpr const char* kLinkNames[kLinks] = {"disk_read", "disk_write", "host_to_device", "device_to_host"};

// weights: all but those of experts. kv_check: what is read only to see what a choice of KV misses. activations: a
// pass's inputs and logits, and which experts, and which KV, it goes to.
enum class Cause : uint8_t { weights, experts, kv_fetch, kv_repair, kv_check, kv_spill, activations };
inline constexpr int kCauses = 7;
inline constexpr const char* kCauseNames[kCauses] = {"weights",  "experts",  "kv_fetch",   "kv_repair",
                                                     "kv_check", "kv_spill", "activations"};

// Bytes moved so far. Thread-safe; a copy is a snapshot.
class Traffic {
 public:
  void add(Link link, Cause cause, uint64_t bytes) { cell(link, cause).fetch_add(bytes, std::memory_order_relaxed); }
  uint64_t bytes(Link link, Cause cause) const { return cells_[index(link, cause)].load(std::memory_order_relaxed); }
  uint64_t bytes(Link link) const {
    uint64_t sum = 0;
    for (int c = 0; c < kCauses; ++c) sum += bytes(link, static_cast<Cause>(c));
    return sum;
  }

 private:
  static int index(Link link, Cause cause) { return static_cast<int>(link) * kCauses + static_cast<int>(cause); }
  std::atomic<uint64_t>& cell(Link link, Cause cause) { return cells_[index(link, cause)]; }
  std::array<std::atomic<uint64_t>, kLinks * kCauses> cells_{};
};

// Event::arrival of bytes that are moved. Of those that take two links, by way of host memory, the drive's is said:
// where they come from, or go to.
constexpr uint8_t arrival_of(Link link, Cause cause) {
  return static_cast<uint8_t>(1 + static_cast<int>(link) * kCauses + static_cast<int>(cause));
}
inline constexpr const char* kWayNames[kLinks] = {"from disk", "to disk", "from host", "to host"};
static_assert(arrival_of(Link{kLinks - 1}, Cause{kCauses - 1}) < kArrivals);

}  // namespace spillway

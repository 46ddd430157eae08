// ExpertFeed: what the runtime sees of the experts: for each layer, those that its rows go to, in groups, as they
// arrive. An expert is known to be needed only when its layer's router has chosen, so nothing is fetched ahead of that;
// the fetches of one layer are in flight together. Where not all experts fit, the device keeps the last used ones in
// slots (memory/expert_cache.h), and host memory those that were brought up from disk for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "memory/expert_cache.h"
#include "memory/weight_home.h"
#include "prefetch/copy_engine.h"

namespace spillway {

// Places of equal size; every expert fits one.
struct ExpertSlots {
  std::byte* data = nullptr;
  int count = 0;
  uint64_t bytes_each = 0;
};

// Experts that were asked for, and of those the ones that were in a tier already.
struct ExpertCounts {
  uint64_t asked = 0;
  uint64_t on_device = 0;
  uint64_t on_host = 0;  // of the rest

  ExpertCounts& operator+=(const ExpertCounts& other) {
    asked += other.asked;
    on_device += other.on_device;
    on_host += other.on_host;
    return *this;
  }
};

struct ExpertFeedParts {
  const WeightHome& home;  // the experts of all layers, a layer's one after the other
  int experts = 0;         // of a layer
  ExpertSlots device, host;
  CopyLane* lane = nullptr;  // to the device's slots; null where all experts are on the device
  CopyLane* host_lane =
      nullptr;  // from disk to the host's slots, whose memory the disk reaches; null where there are none
};

class ExpertFeed {
 public:
  explicit ExpertFeed(const ExpertFeedParts& parts);

  // All of them are on the device: nobody need know which are chosen.
  bool resident() const { return resident_; }
  // A resident expert.
  const WeightUnit& unit(int first_unit, int expert) const { return p_.home.units[first_unit + expert]; }
  std::byte* place(int first_unit, int expert) const { return p_.home.places[first_unit + expert].data; }

  struct Here {
    int expert;
    std::byte* data;
  };
  // Experts that may be read once `ready` is done.
  struct Group {
    std::span<const Here> experts;
    std::span<const Event> ready;
  };
  // Asks for the experts `chosen` (ascending) of the layer whose units begin with `first_unit`. prompt: many rows of a
  // prompt, which may not push out what decoding uses. All that was asked for before has been given back.
  void ask(int first_unit, std::span<const int> chosen, bool prompt);
  // The next group, until all that was asked for has come: at first those that are here, then the others one by one.
  // Each is given back before the next is taken.
  bool next(Group* group);
  void give_back(const Event& last_reader);

  // By decode steps, and by prompts.
  const ExpertCounts& counts(bool prompt) const { return counts_[prompt ? 1 : 0]; }

 private:
  struct DeviceSlot {
    Event ready, last_reader;
  };
  struct HostSlot {
    Event ready;
    std::vector<Event> readers;  // copies to the device
  };
  void start_fetches();
  Event fetch(uint32_t unit, int slot);
  Event fetch_through_host(uint32_t unit, std::byte* place, std::vector<Event> after);
  std::byte* device_place(int slot) const { return p_.device.data + slot * p_.device.bytes_each; }
  std::byte* host_place(int slot) const { return p_.host.data + slot * p_.host.bytes_each; }
  std::vector<DiskMove> reads(uint32_t unit, std::byte* place) const;

  ExpertFeedParts p_;
  bool resident_;
  ExpertCache on_device_, on_host_;
  std::vector<DeviceSlot> device_slots_;
  std::vector<HostSlot> host_slots_;
  ExpertCounts counts_[2];

  int first_unit_ = 0;  // of the layer in turn
  Warmth warmth_ = Warmth::warm;
  int most_fetches_ = 0;          // in flight, or being read, at once
  std::vector<uint32_t> misses_;  // units, in the order of the fetches
  size_t started_ = 0, taken_ = 0, returned_ = 0;
  std::vector<int> slots_;  // of the fetches started, in their order
  bool hits_taken_ = true;
  std::vector<Here> here_;  // of the group last taken
  std::vector<int> held_;   // its slots
  std::vector<Event> ready_;
};

}  // namespace spillway

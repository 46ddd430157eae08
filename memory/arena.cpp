#include "memory/arena.h"

#include <utility>

#include "kernels/check.h"
#include "memory/extent.h"

namespace spillway {

Arena::Arena(Device& device, Tier tier, uint64_t bytes)
    : device_(device), tier_(tier), bytes_(align_up(bytes, kDiskAlign)) {
  SPILLWAY_CHECK(tier != Tier::disk);
  if (bytes_ > 0) base_ = tier == Tier::device ? device.reserve(bytes_) : device.reserve_host(bytes_);
}

Arena::~Arena() {
  if (base_ == nullptr) return;
  if (tier_ == Tier::device) {
    device_.release(base_, bytes_);
  } else {
    device_.release_host(base_, bytes_);
  }
}

std::span<std::byte> Arena::take(std::string what, uint64_t bytes) {
  SPILLWAY_CHECK(!frozen_);
  const uint64_t whole = align_up(bytes, kDiskAlign);
  SPILLWAY_CHECK(whole <= bytes_ - used_);
  std::byte* piece = base_ + used_;
  used_ += whole;
  pieces_.push_back({std::move(what), whole});
  return {piece, bytes};
}

}  // namespace spillway

// Lease: a pin. These bytes are in their place while it is held, readable after `ready`; the place is given to other
// bytes only after the event of the last reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/check.h"
#include "kernels/device.h"

namespace spillway {

class LeaseOwner {
 public:
  virtual ~LeaseOwner() = default;
  virtual void give_back(uint64_t token, const Event& last_reader) = 0;
};

class Lease {
 public:
  Lease() = default;
  // Bytes that never move: nobody waits for their release.
  explicit Lease(std::byte* data) : data_(data) {}
  Lease(LeaseOwner& owner, uint64_t token, std::byte* data, const Event& ready)
      : owner_(&owner), token_(token), data_(data), ready_(ready) {}
  Lease(Lease&& other) noexcept { *this = std::move(other); }
  Lease& operator=(Lease&& other) noexcept {
    SPILLWAY_CHECK(owner_ == nullptr);
    owner_ = std::exchange(other.owner_, nullptr);
    token_ = other.token_;
    data_ = other.data_;
    ready_ = other.ready_;
    return *this;
  }
  ~Lease() {
    SPILLWAY_CHECK(owner_ == nullptr);
  }  // a lease dropped without its last reader would free a slot too early

  std::byte* data() const { return data_; }
  const Event& ready() const { return ready_; }
  bool moves() const { return owner_ != nullptr; }
  void release(const Event& last_reader) {
    if (LeaseOwner* owner = std::exchange(owner_, nullptr)) owner->give_back(token_, last_reader);
  }

 private:
  LeaseOwner* owner_ = nullptr;
  uint64_t token_ = 0;
  std::byte* data_ = nullptr;
  Event ready_;
};

}  // namespace spillway

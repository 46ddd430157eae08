#include "runtime/weight_loader.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace spillway {

WeightLoader::WeightLoader(Device& device, const Checkpoint& checkpoint, std::span<std::byte> staging, Traffic& traffic)
    : checkpoint_(checkpoint), staging_(staging), traffic_(traffic) {
  if (device.host_addressable()) return;
  SPILLWAY_CHECK(staging.size() >= 2);
  copies_ = device.make_copy_stream("load");
}

template <typename Fill>
void WeightLoader::stage(uint64_t bytes, std::byte* place, Cause cause, const Fill& fill) {
  traffic_.add(Link::host_to_device, cause, bytes);
  const uint64_t half_bytes = staging_.size() / 2;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t piece = std::min(half_bytes, bytes - done);
    std::byte* through = staging_.data() + half_ * half_bytes;
    half_free_[half_].wait();
    fill(std::span<std::byte>(through, piece), done);
    copies_->copy(place + done, through, piece);
    half_free_[half_] = copies_->record();
    half_ ^= 1;
    done += piece;
  }
}

void WeightLoader::load(const Extent& extent, uint64_t bytes, const WeightPlace& place, Cause cause) {
  const File& file = checkpoint_.files[extent.file];
  traffic_.add(Link::disk_read, cause, bytes);
  if (copies_ == nullptr || place.tier == Tier::host) return file.read(extent.offset, {place.data, bytes});
  stage(bytes, place.data, cause,
        [&](std::span<std::byte> into, uint64_t done) { file.read(extent.offset + done, into); });
}

void WeightLoader::put(std::span<const std::byte> bytes, std::byte* place) {
  if (copies_ == nullptr) {
    std::memcpy(place, bytes.data(), bytes.size());
    return;
  }
  stage(bytes.size(), place, Cause::weights,
        [&](std::span<std::byte> into, uint64_t done) { std::memcpy(into.data(), bytes.data() + done, into.size()); });
}

void WeightLoader::finish() {
  if (copies_ != nullptr) copies_->synchronize();
}

}  // namespace spillway

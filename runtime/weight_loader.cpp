#include "runtime/weight_loader.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

WeightLoader::WeightLoader(Device& device, const Checkpoint& checkpoint, std::span<std::byte> staging, Traffic& traffic)
    : checkpoint_(checkpoint), staging_(staging), traffic_(traffic) {
  if (device.host_addressable()) return;
  SPILLWAY_CHECK(staging.size() >= 2);
  copies_ = device.make_copy_stream("load");
}

void WeightLoader::load(const Extent& extent, uint64_t bytes, Tier tier, std::byte* place) {
  const File& file = checkpoint_.files[extent.file];
  traffic_.add(Link::disk_read, Cause::weights, bytes);
  if (copies_ == nullptr || tier == Tier::host) return file.read(extent.offset, {place, bytes});
  traffic_.add(Link::host_to_device, Cause::weights, bytes);
  const uint64_t half_bytes = staging_.size() / 2;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t piece = std::min(half_bytes, bytes - done);
    std::byte* through = staging_.data() + half_ * half_bytes;
    half_free_[half_].wait();
    file.read(extent.offset + done, {through, piece});
    copies_->copy(place + done, through, piece);
    half_free_[half_] = copies_->record();
    half_ ^= 1;
    done += piece;
  }
}

void WeightLoader::finish() {
  if (copies_ != nullptr) copies_->synchronize();
}

}  // namespace spillway

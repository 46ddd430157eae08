// Speeds of a drive, through the disk queue that will stream from it.
#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "memory/disk_queue.h"
#include "memory/extent.h"
#include "runtime/free_disk.h"
#include "runtime/measure.h"

namespace spillway {
namespace {

constexpr uint64_t kBatchBytes = 4 << 20;
constexpr int kBatches = 4;                           // in flight
constexpr uint64_t kSpreadBatches = 64;               // of the file, over which reads are spread
constexpr uint64_t kWriteBytes = uint64_t{64} << 20;  // of the unnamed file
constexpr int kSmallReads = 48;

class DiskMeter {
 public:
  DiskMeter(Device& device, const File& file) : device_(device), file_(file), memory_(device.reserve_host(kBytes)) {
    // Noise: a drive that compresses must not look faster than it is.
    std::mt19937_64 random(1);
    std::generate_n(reinterpret_cast<uint64_t*>(memory_), kBytes / 8, std::ref(random));
    batch_bytes_ = std::max(kDiskAlign, align_down(std::min(kBatchBytes, file.bytes()), kDiskAlign));
    places_ = std::max<uint64_t>(file.bytes() / batch_bytes_, 1);
    const std::span<std::byte> arena(memory_, kBytes);
    queue_ = DiskQueue::open({&file}, {arena}, {});
  }
  ~DiskMeter() {
    queue_.reset();
    device_.release_host(memory_, kBytes);
  }
  DiskMeter(const DiskMeter&) = delete;

  // Bytes a second with several batches in flight, from the end of the first one on.
  double read_speed(double seconds) { return speed(false, seconds, UINT64_MAX); }
  // Writes the file from its start, once at most; what was written is what is read from then on, for the rest of an
  // unnamed file would be read without touching the drive.
  double write_speed(double seconds) {
    const double found = speed(true, seconds, places_);
    places_ = std::min(places_, submitted_);
    return found;
  }

  // Median of single small reads all over the file.
  double latency(double seconds) {
    std::mt19937_64 random(2);
    std::vector<double> samples;
    const double begin = seconds_now();
    while (samples.size() < kSmallReads && (samples.size() < 3 || seconds_now() - begin < seconds)) {
      const uint64_t offset = random() % (places_ * batch_bytes_ / kDiskAlign) * kDiskAlign;
      const double start = seconds_now();
      const DiskRequest request = at(offset, kDiskAlign, memory_);
      queue_->read({&request, 1}).wait();
      samples.push_back(seconds_now() - start);
    }
    queue_->check();
    std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(samples.size() / 2), samples.end());
    return samples[samples.size() / 2];
  }

  void describe(DiskProfile& profile) const {
    profile.method = kDiskMethodNames[static_cast<int>(queue_->method())];
    profile.through_cache = queue_->method() == DiskMethod::buffered;
  }

 private:
  static constexpr uint64_t kBytes = kBatches * kBatchBytes;

  DiskRequest at(uint64_t offset, uint64_t bytes, std::byte* memory) const {
    return {.offset = offset, .bytes = bytes, .memory = memory, .needed = std::min(bytes, file_.bytes() - offset)};
  }
  double speed(bool writes, double seconds, uint64_t most_batches) {
    const double begin = seconds_now();
    std::deque<Event> in_flight;
    uint64_t counted = 0;
    double started = begin;
    submitted_ = 0;
    const auto submit = [&] { in_flight.push_back(move(writes, submitted_++)); };
    while (submitted_ < std::min<uint64_t>(kBatches, most_batches)) submit();
    for (bool first = true; !in_flight.empty(); first = false) {
      in_flight.front().wait();
      in_flight.pop_front();
      if (first) {
        started = seconds_now();
      } else {
        counted += batch_bytes_;
      }
      if (seconds_now() - begin < seconds && submitted_ < most_batches) submit();
    }
    const double elapsed = seconds_now() - started;
    queue_->check();
    return static_cast<double>(counted) / std::max(elapsed, 1e-9);
  }
  // Batch number `index`: ascending through the file, spread over all of it; each further round starts a batch later.
  Event move(bool writes, uint64_t index) {
    const uint64_t stride = writes ? 1 : std::max<uint64_t>(places_ / kSpreadBatches, 1);
    const uint64_t place = (index * stride + index * stride / places_) % places_;
    const DiskRequest request = at(place * batch_bytes_, batch_bytes_, memory_ + index % kBatches * kBatchBytes);
    return writes ? queue_->write({&request, 1}) : queue_->read({&request, 1});
  }

  Device& device_;
  const File& file_;
  std::byte* memory_;
  uint64_t batch_bytes_;
  uint64_t places_;  // batches of the file that may be moved
  uint64_t submitted_ = 0;
  std::unique_ptr<DiskQueue> queue_;
};

}  // namespace

DiskProfile measure_reads(Device& device, const std::string& path, double seconds) {
  const File file = File::open_read(path);
  DiskMeter meter(device, file);
  DiskProfile profile;
  profile.read = meter.read_speed(0.8 * seconds);
  profile.latency_s = meter.latency(0.2 * seconds);
  meter.describe(profile);
  return profile;
}

DiskProfile measure_writes(Device& device, const std::string& folder, double seconds) {
  // Where the file system does not say what is free, making the file tells.
  const std::optional<uint64_t> free = free_disk_bytes(folder);
  const uint64_t bytes = align_down(std::min(kWriteBytes, free ? *free / 4 : kWriteBytes), kBatchBytes);
  DiskProfile profile;
  if (bytes < kBatches * kBatchBytes) return profile;
  const File file = File::make_unnamed(folder, bytes);
  DiskMeter meter(device, file);
  profile.write = meter.write_speed(0.5 * seconds);
  profile.read = meter.read_speed(0.4 * seconds);
  profile.latency_s = meter.latency(0.1 * seconds);
  meter.describe(profile);
  return profile;
}

}  // namespace spillway

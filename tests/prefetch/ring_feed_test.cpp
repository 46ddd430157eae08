// The schedule on real streams: what each step reads is what was fetched for it, though places are reused at once.
#include "prefetch/ring_feed.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_stream.h"

namespace spillway {
namespace {

struct Harness {
  std::vector<std::byte> ring;
  CpuStream copy{"copy", nullptr};
  CpuStream compute{"compute", nullptr};
  std::atomic<int> wrong{0};
  std::vector<uint64_t> sizes;
  uint32_t fetched = 0;
  RingFeed feed;

  Harness(uint64_t bytes, int lookahead)
      : ring(bytes), feed(ring, lookahead, [this](uint32_t item, std::byte* place, const std::vector<Event>& after) {
          ++fetched;
          for (const Event& event : after) copy.wait_for(event);
          copy.enqueue([this, item, place] { std::memset(place, static_cast<int>(item % 251), sizes[item]); });
          return copy.record();
        }) {}

  void plan(uint64_t bytes) {
    sizes.push_back(bytes);
    feed.plan(static_cast<uint32_t>(sizes.size() - 1), bytes);
  }

  void read(uint32_t item) {
    Lease lease = feed.acquire();
    compute.wait_for(lease.ready());
    compute.enqueue([this, item, data = lease.data()] {
      if (item % 7 == 0) std::this_thread::yield();
      for (uint64_t i = 0; i < sizes[item]; ++i) {
        if (data[i] != static_cast<std::byte>(item % 251)) ++wrong;
      }
    });
    lease.release(compute.record());
  }
};

TEST(RingFeed, EveryStepReadsItsOwnItem) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 20; ++round) {
    Harness harness(256 + random() % 4096, static_cast<int>(random() % 4));
    harness.sizes.reserve(1000);
    uint32_t planned = 0, read = 0;
    for (int pass = 0; pass < 5; ++pass) {
      if (random() % 2 == 0) harness.feed.rewind();
      for (int i = 0; i < 40; ++i, ++planned) harness.plan(1 + random() % harness.ring.size());
      while (read < planned) harness.read(read++);
    }
    harness.compute.synchronize();
    EXPECT_EQ(harness.wrong, 0);
    EXPECT_EQ(harness.fetched, planned);
  }
}

TEST(RingFeed, DroppedItemsDoNotDisturbLaterOnes) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 20; ++round) {
    Harness harness(256 + random() % 1024, 0);
    harness.sizes.reserve(2000);
    for (int pass = 0; pass < 10; ++pass) {
      const uint32_t first = static_cast<uint32_t>(harness.sizes.size());
      const uint32_t count = 1 + static_cast<uint32_t>(random() % 20);
      for (uint32_t i = 0; i < count; ++i) harness.plan(1 + random() % harness.ring.size());
      const uint32_t reads = static_cast<uint32_t>(random() % (count + 1));
      for (uint32_t i = 0; i < reads; ++i) harness.read(first + i);
      harness.feed.drop();
      EXPECT_TRUE(harness.feed.idle());
    }
    harness.compute.synchronize();
    harness.copy.synchronize();
    EXPECT_EQ(harness.wrong, 0);
  }
}

}  // namespace
}  // namespace spillway

// DiskQueue on real files, on every rung.
#include "memory/disk_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "kernels/check.h"
#include "memory/extent.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::byte byte_at(uint64_t seed, uint64_t offset) {
  return static_cast<std::byte>(((offset ^ seed) * 0x9e3779b97f4a7c15u) >> 56);
}

// Page-aligned bytes.
class Block {
 public:
  explicit Block(uint64_t bytes)
      : bytes_(bytes), data_(static_cast<std::byte*>(std::aligned_alloc(kDiskAlign, bytes))) {
    clear();
  }
  Block(const Block&) = delete;
  ~Block() { std::free(data_); }
  void clear() const { std::memset(data_, 0xee, bytes_); }
  std::byte* at(uint64_t offset) const { return data_ + offset; }
  std::span<std::byte> span() const { return {data_, bytes_}; }

 private:
  uint64_t bytes_;
  std::byte* data_;
};

class DiskQueueTest : public ::testing::TestWithParam<DiskMethod> {
 protected:
  DiskQueueTest() {
    std::string name = (fs::temp_directory_path() / "spillway-disk-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~DiskQueueTest() override { fs::remove_all(folder_); }

  std::string put(const std::string& name, uint64_t bytes, uint64_t seed) const {
    std::string content(bytes, '\0');
    for (uint64_t i = 0; i < bytes; ++i) content[i] = static_cast<char>(byte_at(seed, i));
    const std::string path = folder_ + "/" + name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  std::unique_ptr<DiskQueue> open(std::vector<const File*> files, std::vector<std::span<std::byte>> memory,
                                  uint64_t request_bytes = 1 << 20, int depth = 8) const {
    return DiskQueue::open(std::move(files), std::move(memory), {request_bytes, depth, GetParam()});
  }

  std::string folder_;
};

void expect_content(const std::byte* memory, uint64_t seed, uint64_t offset, uint64_t bytes) {
  for (uint64_t i = 0; i < bytes; ++i) {
    if (memory[i] != byte_at(seed, offset + i)) FAIL() << "wrong at file offset " << offset + i;
  }
}

TEST_P(DiskQueueTest, ReadsWhatTheFilesHold) {
  const File a = File::open_read(put("a", 3 << 20, 1));
  const File b = File::open_read(put("b", 64 << 10, 2));
  const Block memory(4 << 20);
  const auto queue = open({&a, &b}, {memory.span()}, 64 << 10);
  const DiskRequest requests[] = {{0, 4096, 2 << 20, memory.at(0)}, {1, 0, 64 << 10, memory.at(2 << 20)}};
  const Event event = queue->read(requests);
  event.wait();
  EXPECT_TRUE(event.done());
  queue->check();
  expect_content(memory.at(0), 1, 4096, 2 << 20);
  expect_content(memory.at(2 << 20), 2, 0, 64 << 10);
  EXPECT_EQ(*memory.at((2 << 20) + (64 << 10)), std::byte{0xee});
  const DiskStats stats = queue->stats();
  EXPECT_EQ(stats.bytes_read, (2u << 20) + (64u << 10));
  EXPECT_EQ(stats.bytes_written, 0u);
  EXPECT_GT(stats.seconds_busy, 0);
  EXPECT_GE(stats.seconds_demand, stats.seconds_busy);
}

TEST_P(DiskQueueTest, TakesTheRungThatWasAskedFor) {
  const File file = File::open_read(put("a", 8192, 1));
  const Block memory(8192);
  const auto queue = open({&file}, {memory.span()});
  EXPECT_GE(queue->method(), GetParam());
  if (queue->method() == GetParam()) {
    EXPECT_EQ(queue->why(), "");
  } else {
    EXPECT_NE(queue->why(), "");
  }
}

TEST_P(DiskQueueTest, WritesComeBack) {
  const uint64_t bytes = 3 << 20;
  const File file = File::make_unnamed(folder_, bytes);
  const Block memory(bytes);
  for (uint64_t i = 0; i < bytes; ++i) *memory.at(i) = byte_at(7, i);
  const auto queue = open({&file}, {memory.span()}, 256 << 10, 4);
  const DiskRequest whole{0, 0, bytes, memory.at(0)};
  queue->write({&whole, 1}).wait();
  queue->check();
  EXPECT_EQ(queue->stats().bytes_written, bytes);
  memory.clear();
  queue->read({&whole, 1}).wait();
  queue->check();
  expect_content(memory.at(0), 7, 0, bytes);
}

TEST_P(DiskQueueTest, TheTailOfAFileComesWithItsLastPage) {
  for (const uint64_t bytes : {1, 511, 512, 4095, 4097, 70001}) {
    const File file = File::open_read(put("tail", bytes, 3));
    const uint64_t aligned = align_up(bytes, kDiskAlign);
    const Block memory(aligned);
    const auto queue = open({&file}, {memory.span()}, kDiskAlign * 4);
    const DiskRequest request{0, 0, aligned, memory.at(0), bytes};
    queue->read({&request, 1}).wait();
    queue->check();
    expect_content(memory.at(0), 3, 0, bytes);
    EXPECT_EQ(queue->stats().bytes_read, bytes);
  }
}

TEST_P(DiskQueueTest, OnlyPagesWithNeededBytesMove) {
  const File file = File::open_read(put("a", 64 << 10, 3));
  const Block memory(64 << 10);
  const auto queue = open({&file}, {memory.span()}, kDiskAlign * 2);
  const DiskRequest request{0, 0, 64 << 10, memory.at(0), 9000};
  queue->read({&request, 1}).wait();
  queue->check();
  expect_content(memory.at(0), 3, 0, 9000);
  EXPECT_EQ(*memory.at(3 * kDiskAlign), std::byte{0xee});
  EXPECT_EQ(queue->stats().bytes_read, 3 * kDiskAlign);
}

TEST_P(DiskQueueTest, AFileThatShrankIsNamedWithThePlace) {
  const std::string path = put("shrinks", 1 << 20, 3);
  const File file = File::open_read(path);
  const Block memory(1 << 20);
  const auto queue = open({&file}, {memory.span()}, 64 << 10);
  ASSERT_EQ(::truncate(path.c_str(), 300000), 0);
  const DiskRequest request{0, 0, 1 << 20, memory.at(0)};
  queue->read({&request, 1}).wait();
  try {
    queue->check();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), HasSubstr("file is shorter than it was: " + path + " at "));
  }
  queue->check();  // told once
  expect_content(memory.at(0), 3, 0, 300000);
  const DiskRequest good{0, 0, 65536, memory.at(0)};
  queue->read({&good, 1}).wait();  // the queue goes on
  queue->check();
}

TEST_P(DiskQueueTest, AWriteThatMayNotBeIsNamed) {
  const std::string path = put("readonly", 8192, 3);
  const File file = File::open_read(path);
  const Block memory(8192);
  const auto queue = open({&file}, {memory.span()});
  const DiskRequest request{0, 4096, 4096, memory.at(0)};
  queue->write({&request, 1}).wait();
  try {
    queue->check();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), HasSubstr("cannot write " + path + " at 4096: Bad file descriptor"));
  }
}

TEST_P(DiskQueueTest, MemoryThatIsNotRegisteredServesToo) {
  const File file = File::open_read(put("a", 1 << 20, 5));
  const Block registered(4096), other(1 << 20);
  const auto queue = open({&file}, {registered.span()}, 64 << 10);
  const DiskRequest request{0, 0, 1 << 20, other.at(0)};
  queue->read({&request, 1}).wait();
  queue->check();
  expect_content(other.at(0), 5, 0, 1 << 20);
}

TEST_P(DiskQueueTest, AdjoiningArenasMayBeStraddled) {
  const File file = File::open_read(put("a", 1 << 20, 5));
  const Block memory(1 << 20);
  const auto queue = open({&file}, {memory.span().subspan(512 << 10), memory.span().first(512 << 10)}, 1 << 20);
  const DiskRequest request{0, 0, 1 << 20, memory.at(0)};
  queue->read({&request, 1}).wait();
  queue->check();
  expect_content(memory.at(0), 5, 0, 1 << 20);
}

TEST_P(DiskQueueTest, AnEmptyBatchIsDone) {
  const File file = File::open_read(put("a", 8192, 1));
  const auto queue = open({&file}, {});
  EXPECT_TRUE(queue->read({}).done());
}

// Every thread owns a stripe of one file and of the memory, writes and reads in it at random, and keeps a model of it.
TEST_P(DiskQueueTest, ManyThreadsAgainstAModel) {
  constexpr int kThreads = 4, kRounds = 60;
  constexpr uint64_t kPages = 96, kStripe = kPages * kDiskAlign;
  const File file = File::make_unnamed(folder_, kThreads * kStripe);
  const Block memory(kThreads * kStripe);
  const auto queue = open({&file}, {memory.span()}, 5 * kDiskAlign, 6);
  std::atomic<uint64_t> written{0}, read{0};
  const auto run = [&](int thread) {
    std::mt19937 random(thread);
    std::vector<std::byte> model(kStripe, std::byte{0});
    const uint64_t base = thread * kStripe;
    for (int round = 0; round < kRounds; ++round) {
      const bool write = random() % 2 == 0;
      std::vector<DiskRequest> requests;
      for (uint64_t page = random() % 40; page < kPages;) {
        const uint64_t pages = std::min<uint64_t>(1 + random() % 17, kPages - page);
        requests.push_back({0, base + page * kDiskAlign, pages * kDiskAlign, memory.at(base + page * kDiskAlign)});
        page += pages + random() % 40;
      }
      std::shuffle(requests.begin(), requests.end(), random);
      for (const DiskRequest& request : requests) {
        for (uint64_t i = 0; i < request.bytes; i += 64) request.memory[i] = static_cast<std::byte>(random());
        if (write) std::memcpy(model.data() + (request.offset - base), request.memory, request.bytes);
        (write ? written : read) += request.bytes;
      }
      const Event event = write ? queue->write(requests) : queue->read(requests);
      if (round % 3 == 0) {
        while (!event.done()) std::this_thread::yield();
      } else {
        event.wait();
      }
      for (const DiskRequest& request : requests) {
        ASSERT_EQ(std::memcmp(request.memory, model.data() + (request.offset - base), request.bytes), 0)
            << "thread " << thread << " round " << round;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(run, i);
  for (std::thread& thread : threads) thread.join();
  queue->check();
  EXPECT_EQ(queue->stats().bytes_written, written);
  EXPECT_EQ(queue->stats().bytes_read, read);
}

// The kernel cancels what a thread had queued when that thread ends; the bytes must arrive all the same.
TEST_P(DiskQueueTest, TheSubmittingThreadMayEnd) {
  const uint64_t bytes = 2 << 20;
  const File file = File::make_unnamed(folder_, bytes);
  const Block memory(bytes);
  const auto queue = open({&file}, {memory.span()}, 64 << 10, 32);
  for (uint64_t i = 0; i < bytes; ++i) *memory.at(i) = byte_at(9, i);
  const DiskRequest whole{0, 0, bytes, memory.at(0)};
  for (const bool write : {true, false}) {
    if (!write) memory.clear();
    Event event;
    std::thread([&] { event = write ? queue->write({&whole, 1}) : queue->read({&whole, 1}); }).join();
    event.wait();
    queue->check();
  }
  expect_content(memory.at(0), 9, 0, bytes);
}

TEST_P(DiskQueueTest, CancelUnderLoadFreesEveryWaiter) {
  const uint64_t bytes = 8 << 20;
  const File file = File::make_unnamed(folder_, bytes);
  const Block memory(bytes);
  const auto queue = open({&file}, {memory.span()}, 64 << 10, 4);
  std::vector<Event> events;
  for (uint64_t at = 0; at < bytes; at += 1 << 20) {
    const DiskRequest request{0, at, 1 << 20, memory.at(at)};
    events.push_back(queue->read({&request, 1}));
  }
  std::vector<std::thread> waiters;
  for (const Event& event : events) waiters.emplace_back([event] { event.wait(); });
  events.front().wait();
  queue->cancel();
  for (std::thread& waiter : waiters) waiter.join();
  for (const Event& event : events) EXPECT_TRUE(event.done());
  memory.clear();  // nothing may land now
  const DiskRequest late{0, 0, 1 << 20, memory.at(0)};
  EXPECT_TRUE(queue->read({&late, 1}).done());
  queue->check();
  EXPECT_EQ(*memory.at(0), std::byte{0xee});
}

TEST_P(DiskQueueTest, TheDestructorNeedsNobodyToWait) {
  const uint64_t bytes = 8 << 20;
  const File file = File::make_unnamed(folder_, bytes);
  const Block memory(bytes);
  for (int round = 0; round < 5; ++round) {
    const auto queue = open({&file}, {memory.span()}, 64 << 10, 8);
    const DiskRequest request{0, 0, bytes, memory.at(0)};
    queue->write({&request, 1});
  }
}

std::string rung_name(const ::testing::TestParamInfo<DiskMethod>& info) {
  switch (info.param) {
    case DiskMethod::uring_fixed:
      return "uring_fixed";
    case DiskMethod::uring:
      return "uring";
    case DiskMethod::threads:
      return "threads";
    case DiskMethod::buffered:
      return "buffered";
  }
  return {};
}

INSTANTIATE_TEST_SUITE_P(Rungs, DiskQueueTest,
                         ::testing::Values(DiskMethod::uring_fixed, DiskMethod::uring, DiskMethod::threads,
                                           DiskMethod::buffered),
                         rung_name);

}  // namespace
}  // namespace spillway

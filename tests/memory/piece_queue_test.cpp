// The logic of the disk queue over a backend that the test plays: cutting, order, retries, tickets, cancelling.
#include "memory/piece_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

#include "kernels/check.h"
#include "memory/extent.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kPage = kDiskAlign;

// Transfers wait here until the test says how each ended.
class PlayedBackend : public DiskBackend {
 public:
  void start(std::span<const DiskTransfer> transfers) override {
    const std::lock_guard lock(mutex_);
    started_.insert(started_.end(), transfers.begin(), transfers.end());
    changed_.notify_all();
  }
  size_t collect(std::span<DiskCompletion> into) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !ended_.empty(); });
    const size_t count = std::min(into.size(), ended_.size());
    std::copy_n(ended_.begin(), count, into.begin());
    ended_.erase(ended_.begin(), ended_.begin() + static_cast<ptrdiff_t>(count));
    return count;
  }

  // The nth transfer since the beginning, once it was started; ends the process when it never is.
  DiskTransfer nth(size_t n) {
    std::unique_lock lock(mutex_);
    SPILLWAY_CHECK(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return started_.size() > n; }));
    return started_[n];
  }
  void end(size_t n, int64_t result) {
    const DiskTransfer transfer = nth(n);
    const std::lock_guard lock(mutex_);
    ended_.push_back({transfer.slot, result});
    changed_.notify_all();
  }
  void end_whole(size_t n) { end(n, static_cast<int64_t>(nth(n).bytes)); }
  size_t started() {
    const std::lock_guard lock(mutex_);
    return started_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<DiskTransfer> started_;
  std::vector<DiskCompletion> ended_;
};

class PieceQueueTest : public ::testing::Test {
 protected:
  explicit PieceQueueTest() : memory_(kPages * kPage + kPage) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    base_ = memory_.data() + (align_up(address, kPage) - address);
  }
  void open(uint64_t request_bytes, int depth, uint64_t in_flight_bytes = 64 * kPage) {
    auto backend = std::make_unique<PlayedBackend>();
    backend_ = backend.get();
    queue_ =
        std::make_unique<PieceQueue>(std::move(backend), std::vector<std::string>{"one.gguf", "two.gguf"},
                                     DiskQueueOptions{request_bytes, depth, DiskMethod::uring_fixed, in_flight_bytes},
                                     DiskMethod::threads, "a reason");
  }
  DiskRequest request(uint64_t page, uint64_t pages, uint64_t needed = 0, uint32_t file = 0) const {
    return {file, page * kPage, pages * kPage, base_ + page * kPage, needed};
  }
  Event read(const DiskRequest& one) { return queue_->read({&one, 1}); }
  Event write(const DiskRequest& one) { return queue_->write({&one, 1}); }
  void expect_transfer(size_t n, uint64_t page, uint64_t pages, bool is_write = false) {
    const DiskTransfer transfer = backend_->nth(n);
    EXPECT_EQ(transfer.offset, page * kPage) << n;
    EXPECT_EQ(transfer.bytes, pages * kPage) << n;
    EXPECT_EQ(transfer.memory, base_ + page * kPage) << n;
    EXPECT_EQ(transfer.write, is_write) << n;
  }
  void expect_error(const std::string& text) {
    try {
      queue_->check();
      ADD_FAILURE() << "nothing was thrown, expected: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      EXPECT_EQ(error.what(), text);
    }
  }

  static constexpr uint64_t kPages = 64;
  std::vector<std::byte> memory_;
  std::byte* base_ = nullptr;
  PlayedBackend* backend_ = nullptr;
  std::unique_ptr<PieceQueue> queue_;
};

TEST_F(PieceQueueTest, CutsInOrderAndKeepsDepth) {
  open(2 * kPage, 3);
  const Event event = read(request(0, 9));
  EXPECT_EQ(backend_->started(), 3u);
  for (size_t n = 0; n < 3; ++n) expect_transfer(n, n * 2, 2);
  backend_->end_whole(1);
  expect_transfer(3, 6, 2);
  backend_->end_whole(0);
  expect_transfer(4, 8, 1);
  EXPECT_EQ(backend_->started(), 5u);
  backend_->end_whole(4);
  backend_->end_whole(3);
  EXPECT_FALSE(event.done());
  backend_->end_whole(2);
  event.wait();
  queue_->check();
  EXPECT_EQ(queue_->stats().bytes_read, 9 * kPage);
  EXPECT_EQ(queue_->method(), DiskMethod::threads);
  EXPECT_EQ(queue_->why(), "a reason");
}

TEST_F(PieceQueueTest, FewLargePiecesFlyOrManySmallOnes) {
  open(4 * kPage, 16, 6 * kPage);
  const Event large = read(request(0, 12));
  EXPECT_EQ(backend_->started(), 1u);  // two would be too much
  std::vector<Event> small;
  for (uint64_t page = 12; page < 24; ++page) small.push_back(read(request(page, 1)));
  EXPECT_EQ(backend_->started(), 1u);  // in order
  for (size_t n = 0; n < 3; ++n) backend_->end_whole(n);
  large.wait();
  for (size_t n = 3; n < 15; ++n) {
    backend_->nth(std::min<size_t>(14, n + 5));  // is there before long
    EXPECT_EQ(backend_->started(), std::min<size_t>(15, n + 6));
    backend_->end_whole(n);
  }
  for (const Event& event : small) event.wait();
  queue_->check();
  EXPECT_EQ(queue_->stats().bytes_read, 24 * kPage);
  open(4 * kPage, 16, kPage);  // one always flies
  const Event alone = read(request(0, 8));
  EXPECT_EQ(backend_->started(), 1u);
  backend_->end_whole(0);
  backend_->end_whole(1);
  alone.wait();
}

TEST_F(PieceQueueTest, OldestBatchFirst) {
  open(kPage, 1);
  const DiskRequest first[] = {request(5, 1), request(2, 2)};
  const Event a = queue_->read(first);
  const Event b = write(request(9, 1));
  EXPECT_LT(a.ticket, b.ticket);
  for (const uint64_t page : {5, 2, 3}) {
    const size_t n = page == 5 ? 0 : page - 1;
    expect_transfer(n, page, 1);
    backend_->end_whole(n);
  }
  a.wait();
  expect_transfer(3, 9, 1, true);
  EXPECT_FALSE(b.done());
  backend_->end_whole(3);
  b.wait();
  EXPECT_EQ(queue_->stats().bytes_written, kPage);
}

TEST_F(PieceQueueTest, BatchesFinishInAnyOrder) {
  open(kPage, 4);
  const Event a = read(request(0, 1)), b = read(request(1, 1)), c = read(request(2, 1));
  backend_->end_whole(2);
  c.wait();
  EXPECT_FALSE(a.done());
  EXPECT_FALSE(b.done());
  backend_->end_whole(0);
  a.wait();
  EXPECT_FALSE(b.done());
  EXPECT_TRUE(c.done());
  backend_->end_whole(1);
  b.wait();
}

TEST_F(PieceQueueTest, ManyOpenBatchesKeepTheirTickets) {
  constexpr size_t kBatches = 5000;  // more than any ring holds at first
  open(kPage, 1);
  std::vector<Event> events;
  for (size_t i = 0; i < kBatches; ++i) events.push_back(read(request(i % kPages, 1)));
  for (size_t i = 0; i < kBatches; ++i) {
    EXPECT_EQ(backend_->nth(i).offset, i % kPages * kPage);
    EXPECT_FALSE(events[i].done());
    backend_->end_whole(i);
    events[i].wait();
  }
}

TEST_F(PieceQueueTest, ShortReadsGoOnAtAnAlignedPlace) {
  open(8 * kPage, 2);
  const Event event = read(request(0, 8));
  backend_->end(0, 5000);
  expect_transfer(1, 1, 7);
  backend_->end(1, 4096 * 3);
  expect_transfer(2, 4, 4);
  backend_->end(2, 512);  // page 4, again
  expect_transfer(3, 4, 4);
  EXPECT_FALSE(event.done());
  backend_->end_whole(3);
  event.wait();
  queue_->check();
}

TEST_F(PieceQueueTest, ShortWritesGoOnToo) {
  open(8 * kPage, 2);
  const Event event = write(request(0, 4));
  backend_->end(0, 4097);
  expect_transfer(1, 1, 3, true);
  backend_->end_whole(1);
  event.wait();
  queue_->check();
}

TEST_F(PieceQueueTest, ATailIsDoneOnceWhatIsNeededCame) {
  open(4 * kPage, 2);
  const Event event = read(request(0, 6, 5 * kPage + 100));
  expect_transfer(1, 4, 2);
  backend_->end_whole(0);
  backend_->end(1, kPage + 100);
  event.wait();
  queue_->check();
  EXPECT_EQ(backend_->started(), 2u);
}

TEST_F(PieceQueueTest, TheEndOfTheFileIsToldWhenItComesTooEarly) {
  open(4 * kPage, 2);
  const Event event = read(request(4, 4, 3 * kPage));
  backend_->end(0, 5000);
  backend_->end(1, 5000 - kPage);  // nothing beyond the mark reached before
  event.wait();
  expect_error("file is shorter than it was: one.gguf at " + std::to_string(4 * kPage + 5000));
  const Event empty = read(request(0, 1, 0, 1));
  backend_->end(2, 0);
  empty.wait();
  expect_error("file is shorter than it was: two.gguf at 0");
}

TEST_F(PieceQueueTest, InterruptedTransfersAreTriedAgain) {
  open(4 * kPage, 2);
  const Event event = read(request(0, 4));
  size_t n = 0;
  for (const int error : {EINTR, EAGAIN, ECANCELED, EINTR}) {
    backend_->end(n++, -error);
    expect_transfer(n, 0, 4);
  }
  backend_->end(n++, 2 * kPage);
  backend_->end(n++, -EAGAIN);
  expect_transfer(n, 2, 2);
  EXPECT_FALSE(event.done());
  backend_->end_whole(n);
  event.wait();
  queue_->check();
}

TEST_F(PieceQueueTest, NotWithoutEnd) {
  open(kPage, 1);
  const Event event = read(request(0, 1));
  for (size_t n = 0; !event.done(); ++n) {
    ASSERT_LE(n, 2000u);
    while (!event.done() && backend_->started() <= n) std::this_thread::yield();
    if (!event.done()) backend_->end(n, -EAGAIN);
  }
  expect_error("cannot read one.gguf at 0: Resource temporarily unavailable");
}

TEST_F(PieceQueueTest, FailuresEndTheBatchAndTheFirstIsTold) {
  open(kPage, 8);
  const Event a = read(request(0, 2)), b = read(request(4, 1, 0, 1)), c = read(request(5, 1));
  backend_->end(1, -EIO);
  backend_->end(2, -EINVAL);
  b.wait();
  EXPECT_FALSE(a.done());
  backend_->end_whole(0);
  backend_->end_whole(3);
  a.wait();
  c.wait();
  expect_error("cannot read one.gguf at 4096: Input/output error");
  queue_->check();
  const Event d = write(request(7, 1, 0, 1));
  backend_->end(4, -ENOSPC);
  d.wait();
  expect_error("no space left while writing two.gguf at 28672: No space left on device");
  const Event e = write(request(7, 2));
  backend_->end_whole(5);
  backend_->end(6, 0);
  e.wait();
  expect_error("cannot write one.gguf at 32768: Input/output error");
}

TEST_F(PieceQueueTest, CancelDropsWhatWaitsAndAwaitsWhatFlies) {
  open(kPage, 2);
  const Event a = read(request(0, 4)), b = read(request(4, 4));
  std::thread canceller([&] { queue_->cancel(); });
  b.wait();  // nothing of it was in flight
  EXPECT_FALSE(a.done());
  backend_->end(0, 100);  // short, not continued
  backend_->end(1, -EAGAIN);
  canceller.join();
  EXPECT_TRUE(a.done());
  EXPECT_EQ(backend_->started(), 2u);
  EXPECT_TRUE(read(request(0, 1)).done());
  EXPECT_EQ(backend_->started(), 2u);
  queue_->check();
}

TEST_F(PieceQueueTest, BusyTimeRunsOnlyWhileSomethingFlies) {
  using std::chrono::milliseconds;
  open(kPage, 1);
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(queue_->stats().seconds_busy, 0);
  EXPECT_EQ(queue_->stats().seconds_demand, 0);
  const Event event = read(request(0, 2));
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_GE(queue_->stats().seconds_busy, 0.02);
  backend_->end_whole(0);
  backend_->end_whole(1);
  event.wait();
  queue_->cancel();  // so that the reaper has settled
  const DiskStats after = queue_->stats();
  EXPECT_GE(after.seconds_demand, 0.02);
  std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(queue_->stats().seconds_busy, after.seconds_busy);
  EXPECT_EQ(queue_->stats().seconds_demand, after.seconds_demand);
}

TEST_F(PieceQueueTest, OurOwnMistakesAbort) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  open(kPage, 1);
  const auto refuse = [&](DiskRequest wrong) { EXPECT_DEATH(read(wrong), "internal error"); };
  DiskRequest wrong = request(0, 1);
  wrong.offset = 512;
  refuse(wrong);
  wrong = request(0, 1);
  wrong.memory += 64;
  refuse(wrong);
  wrong = request(0, 1);
  wrong.bytes = 100;
  refuse(wrong);
  refuse(request(0, 1, kPage + 1));
  refuse(request(0, 1, 0, 2));
}

// A drive in memory that interrupts, shortens and reorders, by a seed.
class WaywardBackend : public DiskBackend {
 public:
  WaywardBackend(std::vector<std::byte>& file, uint32_t seed) : file_(file), random_(seed) {}
  void start(std::span<const DiskTransfer> transfers) override {
    const std::lock_guard lock(mutex_);
    flying_.insert(flying_.end(), transfers.begin(), transfers.end());
    most_ = std::max(most_, flying_.size());
    changed_.notify_one();
  }
  size_t collect(std::span<DiskCompletion> into) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !flying_.empty(); });
    const size_t count = 1 + random_() % std::min(into.size(), flying_.size());
    for (size_t i = 0; i < count; ++i) {
      std::swap(flying_[random_() % flying_.size()], flying_.back());
      into[i] = {flying_.back().slot, move(flying_.back())};
      flying_.pop_back();
    }
    return count;
  }
  size_t most() const { return most_; }

 private:
  int64_t move(const DiskTransfer& transfer) {
    if (random_() % 8 == 0) return random_() % 2 == 0 ? -EINTR : -ECANCELED;
    if (transfer.offset >= file_.size()) return 0;
    uint64_t bytes = std::min<uint64_t>(transfer.bytes, file_.size() - transfer.offset);
    // At least a page, as drives do: less stands for the end of the file.
    if (random_() % 3 == 0 && bytes > kPage) bytes = kPage + random_() % (bytes - kPage);
    std::byte* place = file_.data() + transfer.offset;
    std::memcpy(transfer.write ? place : transfer.memory, transfer.write ? transfer.memory : place, bytes);
    return static_cast<int64_t>(bytes);
  }
  std::vector<std::byte>& file_;
  std::mt19937 random_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<DiskTransfer> flying_;
  size_t most_ = 0;
};

TEST_F(PieceQueueTest, AWaywardDriveLosesNothing) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> file(kPages * kPage - 1 - random() % kPage);  // ends inside the last page
    for (std::byte& byte : file) byte = static_cast<std::byte>(random());
    std::vector<std::byte> model = file;
    const int depth = static_cast<int>(1 + random() % 7);
    auto backend = std::make_unique<WaywardBackend>(file, seed);
    const WaywardBackend& drive = *backend;
    queue_ = std::make_unique<PieceQueue>(std::move(backend), std::vector<std::string>{"drive"},
                                          DiskQueueOptions{(1 + random() % 5) * kPage, depth}, DiskMethod::uring, "");
    std::vector<Event> events;
    std::vector<DiskRequest> requests;
    for (uint64_t page = 0; page < kPages;) {
      const uint64_t pages = std::min<uint64_t>(1 + random() % 9, kPages - page);
      const bool last = page + pages == kPages;
      requests.push_back(request(page, pages, last ? file.size() - page * kPage : 0));
      const bool is_write = !last && random() % 2 == 0;
      if (is_write) {
        for (uint64_t i = 0; i < pages * kPage; ++i)
          model[page * kPage + i] = base_[page * kPage + i] ^= std::byte{0x55};
      }
      events.push_back(is_write ? write(requests.back()) : read(requests.back()));
      page += pages;
    }
    std::shuffle(events.begin(), events.end(), random);
    for (const Event& event : events) event.wait();
    queue_->check();
    EXPECT_EQ(std::memcmp(base_, model.data(), model.size()), 0) << "seed " << seed;
    EXPECT_EQ(file, model) << "seed " << seed;
    queue_->cancel();
    EXPECT_LE(drive.most(), static_cast<size_t>(depth));
  }
}

}  // namespace
}  // namespace spillway

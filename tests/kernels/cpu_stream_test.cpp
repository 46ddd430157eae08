#include "kernels/cpu/cpu_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/throttle.h"
#include "kernels/wait_clock.h"

namespace spillway {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// Holds a stream up until it is opened.
class Gate {
 public:
  explicit Gate(CpuStream& stream) {
    stream.enqueue([open = open_] { open->wait(false); });
  }
  ~Gate() { open(); }
  void open() {
    *open_ = true;
    open_->notify_all();
  }

 private:
  std::shared_ptr<std::atomic<bool>> open_ = std::make_shared<std::atomic<bool>>(false);
};

TEST(CpuStream, RunsInOrder) {
  CpuStream stream("compute", nullptr);
  EXPECT_EQ(stream.name(), "compute");
  std::vector<int> order;
  for (int i = 0; i < 20000; i++) stream.enqueue([&order, i] { order.push_back(i); });
  stream.synchronize();
  ASSERT_EQ(order.size(), 20000u);
  for (int i = 0; i < 20000; i++) ASSERT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(CpuStream, StandingStillIsCountedByWhatIsWaitedFor) {
  constexpr uint8_t kLate = 3, kThere = 4;
  CpuStream compute("compute", nullptr), other("other", nullptr);
  Event there = other.record();
  there.arrival = kThere;
  compute.wait_for(there);
  const auto begin = Clock::now();
  other.enqueue([] { std::this_thread::sleep_for(20ms); });
  Event late = other.record();
  late.arrival = kLate;
  compute.wait_for(late);
  compute.wait_for(late);
  compute.synchronize();
  const std::chrono::nanoseconds length = Clock::now() - begin;
  EXPECT_GT(compute.waits()->nanoseconds(kLate), length.count() / 2);
  EXPECT_LE(compute.waits()->nanoseconds(kLate), length.count());
  EXPECT_EQ(compute.waits()->nanoseconds(kThere), 0);
}

TEST(CpuStream, EventIsDoneWhenAllBeforeItRan) {
  EXPECT_TRUE(Event{}.done());
  CpuStream stream("s", nullptr);
  EXPECT_TRUE(stream.record().done());  // nothing to wait for
  Gate gate(stream);
  int value = 0;
  stream.enqueue([&] { value = 1; });
  const Event event = stream.record();
  stream.enqueue([] {});
  EXPECT_FALSE(event.done());
  std::this_thread::sleep_for(2ms);
  EXPECT_FALSE(event.done());
  gate.open();
  event.wait();
  EXPECT_TRUE(event.done());
  EXPECT_EQ(value, 1);
  stream.synchronize();
}

TEST(CpuStream, EventOfAnotherStreamIsWaitedFor) {
  CpuStream copies("copies", nullptr);
  CpuStream compute("compute", nullptr);
  Gate gate(copies);
  int data = 0;
  copies.enqueue([&] { data = 7; });
  compute.wait_for(copies.record());
  int seen = -1;
  compute.enqueue([&] { seen = data; });
  const Event end = compute.record();
  std::this_thread::sleep_for(2ms);
  EXPECT_FALSE(end.done());
  gate.open();
  compute.synchronize();
  EXPECT_EQ(seen, 7);
}

// Two streams pass a plain integer to and fro: any order missing between them is a wrong sum, and a race to the
// sanitizer.
TEST(CpuStream, StreamsTakeTurnsByEvents) {
  CpuStream a("a", nullptr);
  CpuStream b("b", nullptr);
  int64_t value = 1;
  int64_t expected = 1;
  for (int i = 0; i < 2000; i++) {
    a.enqueue([&] { value = value * 3 % 1000003; });
    b.wait_for(a.record());
    b.enqueue([&] { value += 5; });
    a.wait_for(b.record());
    expected = expected * 3 % 1000003 + 5;
  }
  a.synchronize();
  b.synchronize();
  EXPECT_EQ(value, expected);
}

TEST(CpuStream, ManyThreadsWaitForTheirOwnTickets) {
  CpuStream stream("s", nullptr);
  std::vector<int> cells(64, 0);
  Gate gate(stream);
  std::vector<std::thread> waiters;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 64; i++) {
    stream.enqueue([&cells, i] { cells[static_cast<size_t>(i)] = i + 1; });
    if (i % 8 != 0) continue;
    waiters.emplace_back([&, i, event = stream.record()] {
      event.wait();
      if (cells[static_cast<size_t>(i)] != i + 1) wrong++;
    });
  }
  std::this_thread::sleep_for(2ms);  // most of them sleep by now
  gate.open();
  for (std::thread& waiter : waiters) waiter.join();
  stream.synchronize();  // those that nobody waited for
  EXPECT_EQ(wrong, 0);
}

TEST(CpuStream, WaitReturnsAtOnceAfterEachClosure) {
  CpuStream stream("s", nullptr);
  int value = 0;
  for (int i = 0; i < 2000; i++) {
    stream.enqueue([&] { value++; });
    stream.record().wait();
    ASSERT_EQ(value, i + 1);
    if (i % 500 == 0) std::this_thread::sleep_for(1ms);  // the worker goes to sleep
  }
}

TEST(CpuStream, FirstErrorStopsTheRestUntilSynchronize) {
  CpuStream stream("s", nullptr);
  int ran = 0;
  stream.enqueue([&] { ran++; });
  stream.enqueue([] { throw Error(ErrorKind::io, "first"); });
  stream.enqueue([] { throw Error(ErrorKind::io, "second"); });
  stream.enqueue([&] { ran += 100; });
  const Event event = stream.record();
  event.wait();  // done, and does not throw
  EXPECT_TRUE(event.done());
  try {
    stream.synchronize();
    FAIL() << "the error was lost";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "first");
    EXPECT_EQ(error.kind(), ErrorKind::io);
  }
  EXPECT_EQ(ran, 1);
  stream.enqueue([&] { ran++; });
  stream.synchronize();
  EXPECT_EQ(ran, 2);
}

TEST(CpuStream, DestructorRunsWhatIsQueued) {
  int ran = 0;
  {
    CpuStream stream("s", nullptr);
    for (int i = 0; i < 1000; i++) stream.enqueue([&] { ran++; });
  }
  EXPECT_EQ(ran, 1000);
}

TEST(CpuStream, ClosureIsGoneWhenItsTicketIsDone) {
  CpuStream stream("s", nullptr);
  for (int i = 0; i < 200; i++) {
    auto held = std::make_shared<int>(0);
    stream.enqueue([held] { ++*held; });
    stream.record().wait();
    ASSERT_EQ(held.use_count(), 1);
    ASSERT_EQ(*held, 1);
  }
}

TEST(CpuStream, ComputeStreamUsesTheTeam) {
  Team team(2);
  CpuStream stream("compute", &team);
  std::vector<int> cells(100, 0);
  for (int i = 0; i < 50; i++) {
    stream.enqueue([&] { team.run(100, [&](int64_t task, int) { cells[static_cast<size_t>(task)]++; }); });
  }
  stream.synchronize();
  EXPECT_EQ(cells, std::vector<int>(100, 50));
}

std::vector<uint8_t> pattern(size_t bytes) {
  std::vector<uint8_t> data(bytes);
  for (size_t i = 0; i < bytes; i++) data[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  return data;
}

TEST(CpuStream, Copies) {
  for (const double speed : {0.0, 4e9}) {
    CpuStream stream("copies", nullptr, speed);
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{1} << 20, (size_t{3} << 20) + 17}) {
      const auto source = pattern(bytes);
      std::vector<uint8_t> destination(bytes + 1, 0xee);
      stream.copy(destination.data(), source.data(), bytes);
      stream.synchronize();
      EXPECT_TRUE(std::equal(source.begin(), source.end(), destination.begin()));
      EXPECT_EQ(destination[bytes], 0xee);
    }
  }
}

// Time over the ideal one.
constexpr double kLinkSpeed = 500e6;
double relative_time_of_copies(CpuStream& stream, size_t copies, size_t bytes) {
  std::vector<uint8_t> source(bytes, 1);
  std::vector<uint8_t> destination(bytes);
  const auto start = Clock::now();
  for (size_t i = 0; i < copies; i++) stream.copy(destination.data(), source.data(), bytes);
  stream.synchronize();
  const std::chrono::duration<double> time = Clock::now() - start;
  return time.count() / (static_cast<double>(copies * bytes) / kLinkSpeed);
}

TEST(CpuStream, EmulatedLinkIsNeverFasterThanItsSpeed) {
  for (int i = 0; i < 5; i++) {
    CpuStream fresh("link", nullptr, kLinkSpeed);
    EXPECT_GE(relative_time_of_copies(fresh, 1, 2 << 20), 0.999);
  }
  CpuStream stream("link", nullptr, kLinkSpeed);
  for (int i = 0; i < 3; i++) {
    EXPECT_GE(relative_time_of_copies(stream, 1, 2 << 20), 0.999);
    EXPECT_GE(relative_time_of_copies(stream, 64, 64 << 10), 0.999);
    std::this_thread::sleep_for(30ms);  // an idle link saves up nothing
  }
}

// The link's arithmetic, in time of our own.
TEST(LinkThrottle, LateSleepersCatchUp) {
  const LinkThrottle::Clock::time_point start{};
  LinkThrottle link(1e9, start);
  auto now = start;
  for (int i = 0; i < 1000; i++) {  // 100 us each, every sleep 60 us too long
    const auto until = link.carry(100000, now);
    if (until > now) now = until + 60us;
  }
  EXPECT_GE(now - start, 100ms);
  EXPECT_LE(now - start, 100ms + 60us);
}

TEST(LinkThrottle, IdleTimeIsNoCredit) {
  const LinkThrottle::Clock::time_point start{};
  LinkThrottle link(1e9, start);
  link.idle_until(start + 7ms);
  EXPECT_EQ(link.carry(1000000, start + 9ms), start + 8ms);
  link.idle_until(start + 2ms);  // ready long ago, but the link was busy
  EXPECT_EQ(link.carry(1000000, start + 9ms), start + 9ms);
}

TEST(LinkThrottle, ArrearsAreForgottenInTheEnd) {
  const LinkThrottle::Clock::time_point start{};
  LinkThrottle link(1e9, start);
  EXPECT_EQ(link.carry(1000000, start + 1s), start + 1s - LinkThrottle::kMaxArrears + 1ms);
}

}  // namespace
}  // namespace spillway

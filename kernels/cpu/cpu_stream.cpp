#include "kernels/cpu/cpu_stream.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/throttle.h"
#include "kernels/spin.h"
#include "kernels/trace.h"
#include "kernels/wait_clock.h"

namespace spillway {
namespace {

using namespace std::chrono_literals;

// The steps of a layer follow one another more closely than this. Streams are not pinned: the two ends of one may share
// a core, so both soon yield.
constexpr SpinLimit kWorkerSpin{5us, 45us};
constexpr SpinLimit kWaiterSpin{5us, 15us};
constexpr uint64_t kThrottlePieceBytes = 1 << 20;
constexpr uint64_t kNobody = UINT64_MAX;

}  // namespace

// Tickets count closures: ticket n is done when the first n have run. After a closure has thrown, those behind it are
// dropped unrun (their input is not there), though their tickets become done; synchronize() reports and starts afresh.
struct CpuStream::State {
  std::string name;
  Trace::Track track = 0;
  Team* team = nullptr;
  std::optional<LinkThrottle> throttle;  // touched by the worker alone
  WaitClock waits;

  std::mutex mutex;  // guards the next block
  std::condition_variable work_came;
  std::vector<std::function<void()>> queue;
  bool worker_sleeps = false;
  bool stopping = false;
  std::exception_ptr error;

  std::atomic<uint64_t> enqueued{0};
  std::atomic<bool> failed{false};  // `error` is set

  alignas(64) std::atomic<uint64_t> completed{0};
  std::atomic<uint64_t> wake_at{kNobody};  // least ticket that a sleeping waiter wants
  std::mutex wait_mutex;
  std::condition_variable ticket_done;

  std::thread worker;

  void serve();
  bool next_batch(std::vector<std::function<void()>>& batch);
  void run(std::function<void()>& work);
  void complete(uint64_t ticket);
  void paced_copy(std::byte* destination, const std::byte* source, uint64_t bytes);
  void paced_gather(const std::vector<GatherRun>& runs);
};

void CpuStream::State::serve() {
  if (team != nullptr) team->bind_caller();
  if (throttle) prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; the default adds 50 us to each sleep
  std::vector<std::function<void()>> batch;
  uint64_t ticket = 0;
  while (next_batch(batch)) {
    for (auto& work : batch) {
      run(work);
      work = nullptr;  // what it holds is let go before its ticket is done
      complete(++ticket);
    }
    batch.clear();
  }
}

// Takes all that is queued; waits for it where there is none; false at the end.
bool CpuStream::State::next_batch(std::vector<std::function<void()>>& batch) {
  const uint64_t taken = completed.load(std::memory_order_relaxed);
  const auto came = [&] { return enqueued.load(std::memory_order_acquire) != taken; };
  spin_until(came, kWorkerSpin);
  std::unique_lock lock(mutex);
  worker_sleeps = true;
  work_came.wait(lock, [&] { return !queue.empty() || stopping; });
  worker_sleeps = false;
  batch.swap(queue);
  return !batch.empty();
}

void CpuStream::State::run(std::function<void()>& work) {
  if (failed.load(std::memory_order_acquire)) return;
  try {
    work();
  } catch (...) {
    const std::lock_guard lock(mutex);
    error = std::current_exception();
    failed.store(true, std::memory_order_release);
  }
}

void CpuStream::State::complete(uint64_t ticket) {
  // A waiter announces its ticket before it looks at `completed` again; we do it the other way round.
  completed.store(ticket);
  if (ticket < wake_at.load()) return;
  const std::lock_guard lock(wait_mutex);
  wake_at.store(kNobody);
  ticket_done.notify_all();
}

void CpuStream::State::paced_copy(std::byte* destination, const std::byte* source, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kThrottlePieceBytes) {
    const uint64_t piece = std::min(kThrottlePieceBytes, bytes - at);
    std::memcpy(destination + at, source + at, piece);
    std::this_thread::sleep_until(throttle->carry(piece, LinkThrottle::Clock::now()));
  }
}

// A thread sleeps longer than a short run takes, so a link is waited for once a piece of many.
void CpuStream::State::paced_gather(const std::vector<GatherRun>& runs) {
  uint64_t carried = 0;
  for (size_t i = 0; i < runs.size(); i++) {
    std::memcpy(runs[i].to, runs[i].from, runs[i].bytes);
    carried += runs[i].bytes;
    if (!throttle || (carried < kThrottlePieceBytes && i + 1 < runs.size())) continue;
    std::this_thread::sleep_until(throttle->carry(carried, LinkThrottle::Clock::now()));
    carried = 0;
  }
}

CpuStream::CpuStream(std::string name, Team* team, double bytes_per_second) : state_(std::make_unique<State>()) {
  SPILLWAY_CHECK(bytes_per_second >= 0);
  state_->name = std::move(name);
  state_->track = Trace::track(state_->name);
  state_->team = team;
  if (bytes_per_second > 0) state_->throttle.emplace(bytes_per_second, LinkThrottle::Clock::now());
  state_->worker = std::thread([s = state_.get()] { s->serve(); });
  pthread_setname_np(state_->worker.native_handle(), state_->name.substr(0, 15).c_str());
}

CpuStream::~CpuStream() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    state_->work_came.notify_one();
  }
  state_->worker.join();
}

void CpuStream::enqueue(std::function<void()> work, const char* name, uint64_t bytes) {
  State& s = *state_;
  if (name != nullptr && Trace::watched()) {
    work = [inner = std::move(work), track = s.track, name, bytes] {
      const TraceRange range(track, name, bytes);
      inner();
    };
  }
  bool wake;
  {
    const std::lock_guard lock(s.mutex);
    s.queue.push_back(std::move(work));
    s.enqueued.fetch_add(1, std::memory_order_release);
    wake = std::exchange(s.worker_sleeps, false);
  }
  if (wake) s.work_came.notify_one();
}

const std::string& CpuStream::name() const { return state_->name; }

void CpuStream::copy(void* destination, const void* source, uint64_t bytes) {
  if (bytes == 0) return;
  if (!state_->throttle) {
    enqueue([=] { std::memcpy(destination, source, bytes); }, "copy", bytes);
    return;
  }
  enqueue(
      [s = state_.get(), destination, source, bytes, ready = LinkThrottle::Clock::now()] {
        s->throttle->idle_until(ready);
        s->paced_copy(static_cast<std::byte*>(destination), static_cast<const std::byte*>(source), bytes);
      },
      "copy", bytes);
}

void CpuStream::gather(std::span<const GatherRun> runs) {
  uint64_t bytes = 0;
  for (const GatherRun& run : runs) bytes += run.bytes;
  if (bytes == 0) return;
  enqueue(
      [s = state_.get(), copies = std::vector<GatherRun>(runs.begin(), runs.end()),
       ready = LinkThrottle::Clock::now()] {
        if (s->throttle) s->throttle->idle_until(ready);
        s->paced_gather(copies);
      },
      "gather", bytes);
}

void CpuStream::wait_for(const Event& event) {
  if (event.timeline == this || event.done()) return;  // what is enqueued later runs after our own tickets anyway
  enqueue(
      [s = state_.get(), event] {
        if (event.done()) return;
        const int64_t begin = Trace::now();
        event.wait();
        s->waits.add(event.arrival, Trace::now() - begin);
        if (s->throttle) s->throttle->idle_until(LinkThrottle::Clock::now());
      },
      "wait");
}

const WaitClock* CpuStream::waits() const { return &state_->waits; }

Event CpuStream::record() { return {this, state_->enqueued.load(std::memory_order_acquire)}; }

void CpuStream::synchronize() {
  State& s = *state_;
  wait(s.enqueued.load(std::memory_order_acquire));
  if (!s.failed.load(std::memory_order_acquire)) return;
  std::exception_ptr error;
  {
    const std::lock_guard lock(s.mutex);
    error = std::exchange(s.error, nullptr);
    s.failed.store(false, std::memory_order_release);
  }
  std::rethrow_exception(error);
}

bool CpuStream::done(uint64_t ticket) { return state_->completed.load(std::memory_order_acquire) >= ticket; }

void CpuStream::wait(uint64_t ticket) {
  State& s = *state_;
  SPILLWAY_CHECK(std::this_thread::get_id() != s.worker.get_id() || done(ticket));
  if (spin_until([&] { return done(ticket); }, kWaiterSpin)) return;
  std::unique_lock lock(s.wait_mutex);
  for (;;) {
    if (ticket < s.wake_at.load()) s.wake_at.store(ticket);
    if (s.completed.load() >= ticket) return;
    s.ticket_done.wait(lock);
  }
}

}  // namespace spillway

#include "kernels/cpu/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/cores.h"
#include "kernels/spin.h"

namespace spillway {
namespace {

using namespace std::chrono_literals;

// Longer than the serial gaps between the regions of a layer, shorter than a scheduler's time slice by far.
constexpr SpinLimit kWorkerSpin{50us};
constexpr SpinLimit kCallerSpin{20us, 100us};
// Where workers share a core, none may keep it from another.
constexpr SpinLimit kSharedSpin{0us, 20us};

using FutexWord = std::atomic<uint32_t>;
static_assert(sizeof(FutexWord) == sizeof(uint32_t) && FutexWord::is_always_lock_free);

// Sleeps while the word holds `value`; may return early.
void futex_wait(FutexWord& word, uint32_t value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void futex_wake(FutexWord& word, int sleepers) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, sleepers, nullptr, nullptr, 0);
}

}  // namespace

// A region is: its description, the count of tasks not yet claimed, the count of tasks not yet finished. A worker
// claims by counting down, so whatever it claims belongs to the region that is running, and only what was claimed is
// waited for: a worker that wakes late, or not at all, holds nobody up. The description is read only with a claim in
// hand, and changed only when nothing is unfinished, so it needs no lock.
struct Team::State {
  explicit State(int wanted) : cores(wanted) {}

  const Cores cores;
  std::vector<std::thread> threads;  // workers 1, 2, ...
  std::mutex one_region;             // compute streams of one device take turns
  const TaskRef* task = nullptr;
  int64_t tasks = 0;
  std::atomic<bool> stopping{false};

  alignas(64) FutexWord region{0};  // counts regions; idle workers watch it
  std::atomic<int> sleeping_workers{0};
  alignas(64) std::atomic<int64_t> unclaimed{0};
  alignas(64) FutexWord unfinished{0};
  std::atomic<bool> caller_sleeps{false};

  void start();
  void stop();
  void serve(int worker);
  void await_region(uint32_t seen);
  void take_tasks(int worker) noexcept;  // a task that throws ends the program: there is nobody to tell
  void await_unfinished();
};

void Team::State::start() {
  for (int worker = 1; worker < cores.workers(); worker++) {
    threads.emplace_back([this, worker] { serve(worker); });
    pthread_setname_np(threads.back().native_handle(), ("team " + std::to_string(worker)).c_str());
  }
}

void Team::State::stop() {
  stopping.store(true);
  region.fetch_add(1);
  futex_wake(region, INT_MAX);
  for (std::thread& thread : threads) thread.join();
}

void Team::State::serve(int worker) {
  cores.bind_thread(worker);
  uint32_t seen = 0;
  for (;;) {
    await_region(seen);
    seen = region.load();
    if (stopping.load()) return;
    take_tasks(worker);
  }
}

void Team::State::await_region(uint32_t seen) {
  const auto changed = [&] { return region.load(std::memory_order_acquire) != seen; };
  if (spin_until(changed, cores.shared() ? kSharedSpin : kWorkerSpin)) return;
  // Announced before the word is looked at again; run() changes the word before it looks for sleepers.
  sleeping_workers.fetch_add(1);
  while (region.load() == seen) futex_wait(region, seen);
  sleeping_workers.fetch_sub(1);
}

void Team::State::take_tasks(int worker) noexcept {
  uint32_t finished = 0;
  for (;;) {
    const int64_t left = unclaimed.fetch_sub(1, std::memory_order_acq_rel);
    if (left <= 0) break;
    (*task)(tasks - left, worker);
    finished++;
  }
  if (finished == 0) return;
  if (unfinished.fetch_sub(finished) == finished && caller_sleeps.load()) futex_wake(unfinished, 1);
}

void Team::State::await_unfinished() {
  const auto done = [&] { return unfinished.load(std::memory_order_acquire) == 0; };
  if (spin_until(done, cores.shared() ? kSharedSpin : kCallerSpin)) return;
  caller_sleeps.store(true);
  for (uint32_t left = unfinished.load(); left != 0; left = unfinished.load()) futex_wait(unfinished, left);
  caller_sleeps.store(false);
}

Team::Team(int threads) : state_(std::make_unique<State>(threads)) {}

Team::~Team() { state_->stop(); }

int Team::workers() const { return state_->cores.workers(); }

void Team::run(int64_t tasks, TaskRef task) {
  SPILLWAY_CHECK(tasks >= 0 && tasks <= INT_MAX);
  State& s = *state_;
  const std::lock_guard lock(s.one_region);
  if (tasks <= 1 || s.cores.workers() == 1) {
    for (int64_t i = 0; i < tasks; i++) task(i, 0);
    return;
  }
  if (s.threads.empty()) s.start();
  s.task = &task;
  s.tasks = tasks;
  s.unfinished.store(static_cast<uint32_t>(tasks), std::memory_order_relaxed);
  s.unclaimed.store(tasks, std::memory_order_release);
  s.region.fetch_add(1);
  if (s.sleeping_workers.load() > 0) futex_wake(s.region, static_cast<int>(tasks - 1));
  s.take_tasks(0);
  s.await_unfinished();
}

void Team::bind_caller() { state_->cores.bind_thread(0); }

}  // namespace spillway

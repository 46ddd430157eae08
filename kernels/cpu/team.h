// Team: the CPU's compute workers, one pinned to each core. One parallel region at a time; the caller is worker 0.
#pragma once

#include <cstdint>
#include <memory>

namespace spillway {

// A plain reference to a callable, so that a parallel region costs no allocation.
class TaskRef {
 public:
  template <typename F>
  TaskRef(const F& f)
      : object_(&f),
        call_([](const void* o, int64_t task, int worker) { (*static_cast<const F*>(o))(task, worker); }) {}
  void operator()(int64_t task, int worker) const { call_(object_, task, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int);
};

class Team {
 public:
  // Workers are pinned to distinct physical cores (hwloc); the first region starts them. threads = 0: all allowed
  // cores.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;

  int workers() const;
  // Runs task 0 .. tasks - 1, each once, handed out dynamically; returns when all are done. Called by one thread at a
  // time, which takes part as worker 0 (pinned by bind_caller). Between regions workers spin for some microseconds,
  // then sleep.
  void run(int64_t tasks, TaskRef task);
  // Pins the calling thread to worker 0's core.
  void bind_caller();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spillway

// Trace: an optional record of every stream's work in one file that Perfetto and chrome://tracing open, and the same
// ranges for a profiler that the process runs under (NVTX, through the CUDA module). Process-wide and off until start()
// or show_ranges_to(): then a range costs one relaxed load. Recorded, a range costs two clock reads and a store into a
// buffer of its own thread; a thread of the record's own writes full buffers to the file, which finish() ends and names.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace spillway {

// A profiler's side of ranges: they nest, thread by thread. bytes > 0 are shown with the range.
struct RangeViewer {
  void (*push)(const char* name, uint64_t bytes);
  void (*pop)();
};

class Trace {
 public:
  // A row of the picture. Work of one track that overlaps without nesting (several reads in flight) is laid out in
  // lanes.
  using Track = int32_t;

  // Begins a record. Error(io) when `path` cannot be written. So many events may wait to be written, 40 bytes of memory
  // each, all taken here, and 1024 more in each thread; where the file is slower than that, what comes is dropped, and
  // the number of what was dropped is said in the file.
  static void start(const std::string& path, uint64_t buffered_events = uint64_t{1} << 16);
  // Ends the record: the file is whole and has its name (WholeFile); throws Error(io). Nothing when off.
  static void finish();
  static bool on() { return (watchers() & kRecord) != 0; }

  // From now on each TraceRange is pushed to the viewer too; null: no longer. Not while a range is open.
  static void show_ranges_to(const RangeViewer* viewer);
  // Whether a range is of use to anyone.
  static bool watched() { return watchers() != 0; }

  // The track of that name, for the life of the process; may be asked for while off.
  static Track track(const std::string& name);
  // A copy of `name` for the life of the process: for names that are not literals, made once at start.
  static const char* keep(const std::string& name);
  // Nanoseconds on the steady clock.
  static int64_t now();

  // Work from begin to end (of now()). `name` must live until finish(). bytes > 0 are shown with the event.
  static void span(Track track, const char* name, int64_t begin, int64_t end, uint64_t bytes = 0);
  // The value of `name` from now on: bytes resident, requests in flight.
  static void counter(const char* name, int64_t value);

 private:
  friend class TraceRange;
  static constexpr uint32_t kRecord = 1;
  static constexpr uint32_t kViewer = 2;
  static uint32_t watchers() { return watchers_.load(std::memory_order_relaxed); }

  static inline std::atomic<uint32_t> watchers_{0};
  static inline std::atomic<const RangeViewer*> viewer_{nullptr};
};

// The work of a scope.
class TraceRange {
 public:
  TraceRange(Trace::Track track, const char* name, uint64_t bytes = 0)
      : watchers_(Trace::watchers()), track_(track), name_(name), bytes_(bytes) {
    if (watchers_ != 0) begin();
  }
  ~TraceRange() {
    if (watchers_ != 0) end();
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  void begin();
  void end() const;

  uint32_t watchers_;  // when the range began
  Trace::Track track_;
  const char* name_;
  uint64_t bytes_;
  int64_t begin_ = 0;
  const RangeViewer* viewer_ = nullptr;
};

}  // namespace spillway

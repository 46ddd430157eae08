// Trace: an optional record of every stream's work in one file that Perfetto and chrome://tracing open. Process-wide
// and off until start(): then a range costs one relaxed load. On, a range costs two clock reads and a store into a
// buffer of its own thread; the file is written whole by finish().
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace spillway {

class Trace {
 public:
  // A row of the picture. Work of one track that overlaps without nesting (several reads in flight) is laid out in
  // lanes.
  using Track = int32_t;

  // Begins a record. Error(io) when `path` cannot be written. More than `most_events` are dropped and their number
  // is said in the file: 40 bytes of memory each.
  static void start(const std::string& path, uint64_t most_events = uint64_t{1} << 22);
  // Ends the record and writes the file (temporary name, fsync, rename); throws Error(io). Nothing when off.
  static void finish();
  static bool on() { return on_.load(std::memory_order_relaxed); }

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
  static inline std::atomic<bool> on_{false};
};

// The work of a scope. Ranges for a profiler attached from outside (NVTX) belong in here too.
class TraceRange {
 public:
  TraceRange(Trace::Track track, const char* name, uint64_t bytes = 0)
      : begin_(Trace::on() ? Trace::now() : kOff), bytes_(bytes), name_(name), track_(track) {}
  ~TraceRange() {
    if (begin_ != kOff) Trace::span(track_, name_, begin_, Trace::now(), bytes_);
  }
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;

 private:
  static constexpr int64_t kOff = INT64_MIN;
  int64_t begin_;
  uint64_t bytes_;
  const char* name_;
  Trace::Track track_;
};

}  // namespace spillway

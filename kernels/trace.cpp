#include "kernels/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/whole_file.h"

namespace spillway {
namespace {

constexpr size_t kChunkRecords = 1024;
constexpr Trace::Track kCounterTrack = -1;

struct Record {
  const char* name;
  int64_t begin;  // nanoseconds
  int64_t end;    // of a counter: its value
  uint64_t bytes;
  Trace::Track track;
};

// Written by one thread; `count` publishes what is complete, so that finish() may read at any moment.
struct Chunk {
  std::array<Record, kChunkRecords> records;
  std::atomic<size_t> count{0};
};

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

// The rows of one track: work that overlaps without nesting would be drawn wrong in one row, so it takes the next lane.
// Events come in about the order of their ends; of each lane the latest ones are remembered.
class Lanes {
 public:
  static constexpr size_t kMost = 64;

  size_t place(const Record& event) {
    for (size_t lane = 0;; ++lane) {
      if (lane == lanes_.size()) lanes_.emplace_back();
      std::deque<Span>& spans = lanes_[lane];
      if (lane + 1 < kMost && std::any_of(spans.begin(), spans.end(), [&](const Span& s) { return crosses(s, event); }))
        continue;
      std::erase_if(spans, [&](const Span& s) { return event.begin <= s.begin && s.end <= event.end; });
      spans.push_back({event.begin, event.end});
      if (spans.size() > kRemembered) spans.pop_front();
      return lane;
    }
  }
  size_t count() const { return lanes_.size(); }

 private:
  static constexpr size_t kRemembered = 32;
  struct Span {
    int64_t begin, end;
  };
  static bool crosses(const Span& s, const Record& e) {
    return (s.begin < e.begin && e.begin < s.end && s.end < e.end) ||
           (e.begin < s.begin && s.begin < e.end && e.end < s.end);
  }
  std::vector<std::deque<Span>> lanes_;
};

// Formats chunks into the file, by one thread at a time.
class Writer {
 public:
  explicit Writer(const std::string& path) : file_(path), started_(Trace::now()) {
    text_ =
        "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\","
        "\"args\":{\"name\":\"spillway\"}}";
  }
  // Events in order of track and begin. What cannot be written is thrown by finish().
  void write(Chunk& chunk) {
    const auto begin = chunk.records.begin();
    const auto end = begin + static_cast<ptrdiff_t>(chunk.count.load(std::memory_order_acquire));
    std::sort(begin, end, [](const Record& a, const Record& b) {
      return std::tuple(a.track, a.begin, b.end) < std::tuple(b.track, b.begin, a.end);
    });
    for (auto event = begin; event != end; ++event) {
      if (event->begin < started_) continue;  // began before this record
      event->track == kCounterTrack ? counter(*event) : span(*event);
    }
  }
  void finish(const std::deque<std::string>& tracks, uint64_t dropped) {
    for (size_t track = 0; track < lanes_.size(); ++track) {
      for (size_t lane = 0; lane < lanes_[track].count(); ++lane) {
        const size_t row = row_of(track, lane);
        line("{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":{}}}}}", row,
             json_string(lane == 0 ? tracks[track] : fmt::format("{} ({})", tracks[track], lane + 1)));
        line("{{\"ph\":\"M\",\"pid\":1,\"tid\":{0},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{0}}}}}",
             row);
      }
    }
    text_ += fmt::format("\n],\"otherData\":{{\"dropped_events\":\"{}\"}}}}\n", dropped);
    put();
    if (failure_) std::rethrow_exception(failure_);
    file_.commit();
  }

 private:
  static constexpr size_t kTextBytes = 128 << 10;
  static size_t row_of(size_t track, size_t lane) { return track * Lanes::kMost + lane + 1; }
  double microseconds(int64_t time) const { return static_cast<double>(time - started_) * 1e-3; }
  void span(const Record& event) {
    const auto track = static_cast<size_t>(event.track);
    if (lanes_.size() <= track) lanes_.resize(track + 1);
    const size_t row = row_of(track, lanes_[track].place(event));
    const std::string bytes = event.bytes > 0 ? fmt::format(",\"args\":{{\"bytes\":{}}}", event.bytes) : "";
    line("{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"name\":{}{}}}", row,
         microseconds(event.begin), static_cast<double>(event.end - event.begin) * 1e-3, json_string(event.name),
         bytes);
  }
  void counter(const Record& event) {
    line("{{\"ph\":\"C\",\"pid\":1,\"ts\":{:.3f},\"name\":{},\"args\":{{\"value\":{}}}}}", microseconds(event.begin),
         json_string(event.name), event.end);
  }
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    text_ += ",\n";
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    if (text_.size() > kTextBytes) put();
  }
  void put() {
    try {
      if (!failure_) file_.write(text_);
    } catch (...) {
      failure_ = std::current_exception();
    }
    text_.clear();
  }

  WholeFile file_;
  int64_t started_;
  std::vector<Lanes> lanes_;  // by track
  std::string text_;
  std::exception_ptr failure_;
};

// What one thread fills. Only that thread exchanges `chunk`, and under the registry's lock.
struct Buffer {
  std::unique_ptr<Chunk> chunk = std::make_unique<Chunk>();
  std::atomic<uint64_t> dropped{0};
};

// Everything but the events of each thread, behind one lock.
struct Registry {
  std::mutex lock;
  std::deque<std::string> tracks;
  std::deque<std::string> kept;
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::unique_ptr<Writer> writer;  // while there is a record
  std::deque<std::unique_ptr<Chunk>> full;
  std::vector<std::unique_ptr<Chunk>> empty;
  bool ending = false;  // nothing more is taken
  std::condition_variable changed;
  std::thread writing;
};

std::atomic<uint64_t> session_number{0};  // a buffer of an older session is no longer read

Registry& registry() {
  static Registry* one = new Registry;  // outlives the threads that still record at exit
  return *one;
}

// The buffer of this thread and its session, apart from its owner so that the usual path meets no guard.
constinit thread_local Buffer* present = nullptr;
constinit thread_local uint64_t present_session = 0;

// A new buffer of the present record for this thread; null when the record ended meanwhile.
Buffer* new_buffer() {
  thread_local std::shared_ptr<Buffer> mine;
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  if (all.writer == nullptr || all.ending) return nullptr;
  mine = std::make_shared<Buffer>();
  all.buffers.push_back(mine);
  present_session = session_number.load(std::memory_order_relaxed);
  return present = mine.get();
}

// Hands the full chunk to the writer for an empty one. False where there is none: then the writer is behind.
bool hand_over(Buffer& buffer) {
  Registry& all = registry();
  {
    const std::lock_guard guard(all.lock);
    const bool present_record = present_session == session_number.load(std::memory_order_relaxed);
    if (!present_record || all.ending || all.empty.empty()) return false;
    all.full.push_back(std::exchange(buffer.chunk, std::move(all.empty.back())));
    all.empty.pop_back();
  }
  all.changed.notify_one();
  return true;
}

void add(const Record& event) {
  const bool known = present_session == session_number.load(std::memory_order_acquire) && present != nullptr;
  Buffer* to = known ? present : new_buffer();
  if (to == nullptr) return;
  size_t count = to->chunk->count.load(std::memory_order_relaxed);
  if (count == kChunkRecords) {
    if (!hand_over(*to)) {
      to->dropped.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    count = 0;
  }
  to->chunk->records[count] = event;
  to->chunk->count.store(count + 1, std::memory_order_release);
}

// The writer's thread: full chunks go to the file as they come.
void write_chunks() {
  Registry& all = registry();
  std::unique_lock lock(all.lock);
  for (;;) {
    all.changed.wait(lock, [&] { return all.ending || !all.full.empty(); });
    if (all.full.empty()) return;
    std::unique_ptr<Chunk> chunk = std::move(all.full.front());
    all.full.pop_front();
    lock.unlock();
    all.writer->write(*chunk);
    chunk->count.store(0, std::memory_order_relaxed);
    lock.lock();
    all.empty.push_back(std::move(chunk));
  }
}

}  // namespace

void Trace::start(const std::string& path, uint64_t buffered_events) {
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  SPILLWAY_CHECK(all.writer == nullptr);  // one record at a time
  all.writer = std::make_unique<Writer>(path);
  all.buffers.clear();
  all.ending = false;
  // Touched now, so that whoever counts the process's memory before a run counts them.
  all.empty.resize(std::max<uint64_t>(buffered_events / kChunkRecords, 1));
  for (auto& chunk : all.empty) chunk = std::make_unique<Chunk>();
  all.writing = std::thread(write_chunks);
  session_number.fetch_add(1, std::memory_order_release);
  watchers_.fetch_or(kRecord, std::memory_order_release);
}

void Trace::finish() {
  Registry& all = registry();
  {
    const std::lock_guard guard(all.lock);
    if (all.writer == nullptr || all.ending) return;
    watchers_.fetch_and(~kRecord, std::memory_order_relaxed);
    all.ending = true;
  }
  all.changed.notify_one();
  all.writing.join();

  const std::lock_guard guard(all.lock);
  const std::unique_ptr<Writer> writer = std::move(all.writer);
  all.empty.clear();
  uint64_t dropped = 0;
  const auto rest = std::make_unique<Chunk>();  // of threads that may be recording still
  for (const auto& buffer : std::exchange(all.buffers, {})) {
    dropped += buffer->dropped.load(std::memory_order_relaxed);
    const size_t count = buffer->chunk->count.load(std::memory_order_acquire);
    std::copy_n(buffer->chunk->records.begin(), count, rest->records.begin());
    rest->count.store(count, std::memory_order_release);
    writer->write(*rest);
  }
  writer->finish(all.tracks, dropped);
}

void Trace::show_ranges_to(const RangeViewer* viewer) {
  viewer_.store(viewer, std::memory_order_release);
  if (viewer != nullptr) {
    watchers_.fetch_or(kViewer, std::memory_order_release);
  } else {
    watchers_.fetch_and(~kViewer, std::memory_order_release);
  }
}

Trace::Track Trace::track(const std::string& name) {
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  const auto found = std::find(all.tracks.begin(), all.tracks.end(), name);
  if (found != all.tracks.end()) return static_cast<Track>(found - all.tracks.begin());
  all.tracks.push_back(name);
  return static_cast<Track>(all.tracks.size() - 1);
}

const char* Trace::keep(const std::string& name) {
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  const auto found = std::find(all.kept.begin(), all.kept.end(), name);
  if (found != all.kept.end()) return found->c_str();
  return all.kept.emplace_back(name).c_str();
}

int64_t Trace::now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

void Trace::span(Track track, const char* name, int64_t begin, int64_t end, uint64_t bytes) {
  SPILLWAY_CHECK(track >= 0 && begin <= end);
  if (on()) add({name, begin, end, bytes, track});
}

void Trace::counter(const char* name, int64_t value) {
  if (on()) add({name, now(), value, 0, kCounterTrack});
}

void TraceRange::begin() {
  if ((watchers_ & Trace::kViewer) != 0) viewer_ = Trace::viewer_.load(std::memory_order_acquire);
  if (viewer_ != nullptr) viewer_->push(name_, bytes_);
  if ((watchers_ & Trace::kRecord) != 0) begin_ = Trace::now();
}

void TraceRange::end() const {
  if ((watchers_ & Trace::kRecord) != 0) Trace::span(track_, name_, begin_, Trace::now(), bytes_);
  if (viewer_ != nullptr) viewer_->pop();
}

}  // namespace spillway

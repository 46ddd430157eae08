#include "kernels/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <deque>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/whole_file.h"

namespace spillway {
namespace {

constexpr int kChunkRecords = 1024;
constexpr Trace::Track kCounterTrack = -1;

struct Record {
  const char* name;
  int64_t begin;  // nanoseconds
  int64_t end;    // of a counter: its value
  uint64_t bytes;
  Trace::Track track;
};

// Written by one thread; `count` and `next` publish what is complete, so that finish() may read at any moment.
struct Chunk {
  std::array<Record, kChunkRecords> records;
  std::atomic<int> count{0};
  std::atomic<Chunk*> next{nullptr};
};

struct Buffer {
  std::unique_ptr<Chunk> first = std::make_unique<Chunk>();
  Chunk* last = first.get();
  std::atomic<uint64_t> dropped{0};
  ~Buffer() {
    for (Chunk* chunk = first->next; chunk != nullptr;) delete std::exchange(chunk, chunk->next.load());
  }
};

// Everything but the events themselves, behind one lock.
struct Registry {
  std::mutex lock;
  std::deque<std::string> tracks;
  std::deque<std::string> kept;
  std::unique_ptr<WholeFile> file;
  std::vector<std::shared_ptr<Buffer>> buffers;
  int64_t started = 0;
};

std::atomic<uint64_t> session_number{0};  // a buffer of an older session is no longer read
std::atomic<int64_t> chunks_left{0};

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
  if (all.file == nullptr) return nullptr;
  mine = std::make_shared<Buffer>();
  all.buffers.push_back(mine);
  present_session = session_number.load(std::memory_order_relaxed);
  return present = mine.get();
}

void add(const Record& event) {
  const bool known = present_session == session_number.load(std::memory_order_acquire) && present != nullptr;
  Buffer* to = known ? present : new_buffer();
  if (to == nullptr) return;
  int count = to->last->count.load(std::memory_order_relaxed);
  if (count == kChunkRecords) {
    if (chunks_left.fetch_sub(1, std::memory_order_relaxed) <= 0) {
      to->dropped.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    Chunk* chunk = new Chunk;
    to->last->next.store(chunk, std::memory_order_release);
    to->last = chunk;
    count = 0;
  }
  to->last->records[static_cast<size_t>(count)] = event;
  to->last->count.store(count + 1, std::memory_order_release);
}

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
class Lanes {
 public:
  // Events come by rising begin, longer first.
  size_t place(const Record& event) {
    for (size_t lane = 0;; ++lane) {
      if (lane == open_.size()) open_.emplace_back();
      std::vector<int64_t>& ends = open_[lane];
      while (!ends.empty() && ends.back() <= event.begin) ends.pop_back();
      if (!ends.empty() && ends.back() < event.end) continue;
      ends.push_back(event.end);
      return lane;
    }
  }
  size_t count() const { return open_.size(); }

 private:
  std::vector<std::vector<int64_t>> open_;  // of each lane: the ends of what is open, innermost last
};

class Writer {
 public:
  Writer(WholeFile& file, int64_t started) : file_(file), started_(started) {
    text_ =
        "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\","
        "\"args\":{\"name\":\"spillway\"}}";
  }
  void track(const std::string& name, std::vector<Record>& events) {
    std::stable_sort(events.begin(), events.end(), [](const Record& a, const Record& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
    });
    Lanes lanes;
    for (const Record& event : events) span(event, static_cast<int>(lanes.place(event)));
    for (size_t lane = 0; lane < lanes.count(); ++lane, ++row_) {
      line("{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":{}}}}}", row_,
           json_string(lane == 0 ? name : fmt::format("{} ({})", name, lane + 1)));
      line("{{\"ph\":\"M\",\"pid\":1,\"tid\":{0},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{0}}}}}",
           row_);
    }
  }
  void counter(const Record& event) {
    line("{{\"ph\":\"C\",\"pid\":1,\"ts\":{:.3f},\"name\":{},\"args\":{{\"value\":{}}}}}", microseconds(event.begin),
         json_string(event.name), event.end);
  }
  void finish(uint64_t dropped) {
    text_ += fmt::format("\n],\"otherData\":{{\"dropped_events\":\"{}\"}}}}\n", dropped);
    file_.write(text_);
    file_.commit();
  }

 private:
  double microseconds(int64_t time) const { return static_cast<double>(time - started_) * 1e-3; }
  void span(const Record& event, int lane) {
    const std::string bytes = event.bytes > 0 ? fmt::format(",\"args\":{{\"bytes\":{}}}", event.bytes) : "";
    line("{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},\"name\":{}{}}}", row_ + lane,
         microseconds(event.begin), static_cast<double>(event.end - event.begin) * 1e-3, json_string(event.name),
         bytes);
  }
  template <typename... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    text_ += ",\n";
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
    if (text_.size() > (1 << 20)) {
      file_.write(text_);
      text_.clear();
    }
  }
  WholeFile& file_;
  int64_t started_;
  int row_ = 1;
  std::string text_;
};

}  // namespace

void Trace::start(const std::string& path, uint64_t most_events) {
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  SPILLWAY_CHECK(all.file == nullptr);  // one record at a time
  all.file = std::make_unique<WholeFile>(path);
  all.buffers.clear();
  all.started = now();
  chunks_left.store(static_cast<int64_t>(most_events / kChunkRecords), std::memory_order_relaxed);
  session_number.fetch_add(1, std::memory_order_release);
  watchers_.fetch_or(kRecord, std::memory_order_release);
}

void Trace::finish() {
  Registry& all = registry();
  const std::lock_guard guard(all.lock);
  if (all.file == nullptr) return;
  watchers_.fetch_and(~kRecord, std::memory_order_relaxed);
  const std::unique_ptr<WholeFile> file = std::move(all.file);
  const std::vector<std::shared_ptr<Buffer>> buffers = std::exchange(all.buffers, {});

  std::vector<std::vector<Record>> spans(all.tracks.size());
  std::vector<Record> counters;
  uint64_t dropped = 0;
  for (const auto& each : buffers) {
    dropped += each->dropped.load(std::memory_order_relaxed);
    for (const Chunk* chunk = each->first.get(); chunk != nullptr;
         chunk = chunk->next.load(std::memory_order_acquire)) {
      const int count = chunk->count.load(std::memory_order_acquire);
      for (int i = 0; i < count; ++i) {
        const Record& event = chunk->records[static_cast<size_t>(i)];
        if (event.begin < all.started) continue;  // began before this record
        (event.track == kCounterTrack ? counters : spans[static_cast<size_t>(event.track)]).push_back(event);
      }
    }
  }
  Writer writer(*file, all.started);
  for (size_t i = 0; i < spans.size(); ++i) writer.track(all.tracks[i], spans[i]);
  std::stable_sort(counters.begin(), counters.end(),
                   [](const Record& a, const Record& b) { return a.begin < b.begin; });
  for (const Record& event : counters) writer.counter(event);
  writer.finish(dropped);
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

#include "apps/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "memory/format_bytes.h"

namespace spillway {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kSampleSeconds = 0.25;      // of the rate
constexpr double kFirstSampleSeconds = 1.0;  // what a task begins with is no part of its speed
constexpr int kLongestBar = 30;
constexpr int kShortestBar = 8;

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;  // nobody is left to be told
    text.remove_prefix(static_cast<size_t>(written));
  }
}

int terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressOutput ProgressOutput::standard_error(bool no_color) {
  const char* term = std::getenv("TERM");
  const char* wish = std::getenv("NO_COLOR");  // https://no-color.org: present and not empty
  ProgressOutput output;
  output.terminal = ::isatty(STDERR_FILENO) == 1 && term != nullptr && std::strcmp(term, "dumb") != 0;
  output.color = output.terminal && !no_color && (wish == nullptr || *wish == '\0');
  output.width = terminal_width;
  output.seconds = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  output.write = write_all;
  return output;
}

std::string format_duration(double seconds) {
  const auto whole = static_cast<int64_t>(std::ceil(std::clamp(seconds, 0.0, 1e9)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

Progress::Progress(ProgressOutput output, std::string label, uint64_t total, ProgressUnit unit, std::string noun,
                   uint64_t before)
    : output_(std::move(output)),
      label_(std::move(label)),
      total_(total),
      unit_(unit),
      noun_(std::move(noun)),
      started_(output_.seconds()),
      done_(std::min(before, total)),
      rate_done_(done_),
      rate_time_(started_),
      shown_(started_) {}

Progress::~Progress() { finish(); }

void Progress::update(uint64_t done) {
  const std::lock_guard guard(lock_);
  if (finished_) return;
  done_ = std::max(done_, std::min(done, total_));
  const double now = output_.seconds();
  const double elapsed = now - rate_time_;
  // A sample needs time and news: steps that arrive in bursts would else read as a standstill and a leap.
  if (elapsed >= (rate_ == 0 ? kFirstSampleSeconds : kSampleSeconds) && done_ > rate_done_) {
    const double sample = static_cast<double>(done_ - rate_done_) / elapsed;
    const double weight = rate_ == 0 ? 1.0 : 1.0 - std::exp(-elapsed / output_.smoothing_seconds);
    rate_ += (sample - rate_) * weight;
    rate_done_ = done_;
    rate_time_ = now;
  }
  show(now);
}

void Progress::note(std::string text) {
  const std::lock_guard guard(lock_);
  note_ = std::move(text);
}

void Progress::finish() {
  const std::lock_guard guard(lock_);
  if (std::exchange(finished_, true) || !wrote_) return;
  if (output_.terminal) {
    output_.write("\r\x1b[K");
  } else {
    output_.write(fmt::format("{}: {} in {}\n", label_, counts(), format_duration(output_.seconds() - started_)));
  }
}

void Progress::show(double now) {
  if (now - shown_ < (output_.terminal ? kRedrawSeconds : output_.line_seconds)) return;
  shown_ = now;
  wrote_ = true;
  if (output_.terminal) {
    draw();
    return;
  }
  std::string line = fmt::format("{}: {}", label_, counts());
  for (const std::string& part : {speed(), time_left()}) {
    if (!part.empty()) line += ", " + part;
  }
  output_.write(line + "\n");
}

// The parts that fit one line, the bar giving way first, then the speed, then the counts.
void Progress::draw() {
  const size_t room = static_cast<size_t>(std::max(output_.width() - 1, 8));
  const double share = total_ == 0 ? 1.0 : static_cast<double>(done_) / static_cast<double>(total_);
  std::string line = fmt::format("{} {:3}%", label_, static_cast<int>(share * 100));
  if (line.size() > room) line = fmt::format("{:3}%", static_cast<int>(share * 100));
  const size_t bar_at = line.size();
  for (const std::string& part : {time_left(), counts(), speed()}) {
    if (!part.empty() && line.size() + 2 + part.size() <= room) line += "  " + part;
  }
  const int bar = std::min(kLongestBar, static_cast<int>(room) - static_cast<int>(line.size()) - 3);
  if (bar >= kShortestBar) {
    const auto filled = static_cast<size_t>(share * bar);
    std::string drawn(filled, '=');
    if (filled < static_cast<size_t>(bar)) drawn += '>';
    drawn.resize(static_cast<size_t>(bar), ' ');
    line.insert(bar_at, output_.color ? fmt::format(" \x1b[36m[{}]\x1b[0m", drawn) : fmt::format(" [{}]", drawn));
  }
  output_.write("\r" + line + "\x1b[K");
}

std::string Progress::counts() const {
  if (unit_ == ProgressUnit::bytes) return fmt::format("{} of {}", format_bytes(done_), format_bytes(total_));
  return fmt::format("{} of {}{}{}", done_, total_, noun_.empty() ? "" : " ", noun_);
}

std::string Progress::speed() const {
  if (!note_.empty()) return note_;
  if (rate_ == 0) return "";
  if (unit_ == ProgressUnit::bytes) return format_speed(rate_);
  return fmt::format("{:.{}f} {}/s", rate_, rate_ < 10 ? 2 : rate_ < 100 ? 1 : 0, noun_.empty() ? "items" : noun_);
}

std::string Progress::time_left() const {
  if (rate_ == 0 || done_ >= total_) return "";
  return "ETA " + format_duration(static_cast<double>(total_ - done_) / rate_);
}

}  // namespace spillway

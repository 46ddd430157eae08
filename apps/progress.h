// Progress of something long, on standard error: a bar with the time left on a terminal, an occasional plain line
// elsewhere.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

namespace spillway {

// Where progress is shown; a value, so that tests give their own clock, width and text.
struct ProgressOutput {
  bool terminal = false;  // lines may be redrawn
  bool color = false;
  std::function<int()> width;       // columns now
  std::function<double()> seconds;  // a clock that does not go back
  std::function<void(std::string_view)> write;
  double line_seconds = 5;       // between plain lines
  double smoothing_seconds = 4;  // of the rate, from which the time left follows

  // Standard error of this process. Plain where it is no terminal or TERM is "dumb"; no colour with --no-color or
  // NO_COLOR.
  static ProgressOutput standard_error(bool no_color);
};

enum class ProgressUnit : uint8_t { items, bytes };

// One phase, from its construction to its end. Any thread may call update.
class Progress {
 public:
  // `noun` stands after a count of items ("tokens"). `before`: what was done before this phase began (a resumed job);
  // it counts as done, but not as speed.
  Progress(ProgressOutput output, std::string label, uint64_t total, ProgressUnit unit, std::string noun = "",
           uint64_t before = 0);
  ~Progress();  // finish()
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` of the total so far; a smaller number than before, or one past the total, changes nothing it should not.
  void update(uint64_t done);
  // What stands in place of the speed in items, from the next update on ("812 tokens/s").
  void note(std::string text);
  // Ends the phase: the bar is wiped; where plain lines were written, a last one says how long it took.
  void finish();

 private:
  void show(double now);
  void draw();
  std::string counts() const;
  std::string speed() const;
  std::string time_left() const;

  const ProgressOutput output_;
  const std::string label_;
  const uint64_t total_;
  const ProgressUnit unit_;
  const std::string noun_;
  std::string note_;
  const double started_;
  std::mutex lock_;
  uint64_t done_;
  double rate_ = 0;     // smoothed, units a second; 0: not known yet
  uint64_t rate_done_;  // done_ at the last sample of the rate
  double rate_time_;
  double shown_;  // when something was last written
  bool wrote_ = false;
  bool finished_ = false;
};

// "3 s", "1:05", "2:03:04".
std::string format_duration(double seconds);

}  // namespace spillway

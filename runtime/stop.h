// StopStrings: cuts streamed text at the first stop string, and holds back what may be the beginning of one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace spillway {

// The first stop string is the one that is complete first; of several that end at the same byte, the longest. So the
// result does not depend on how the text is cut into pieces. Text and stop strings are UTF-8 in whole characters; then
// what comes out is too.
class StopStrings {
 public:
  // An empty list stops nothing; an empty string in it is an Error(usage).
  explicit StopStrings(const std::vector<std::string>& stops);

  // What may be shown now. Nothing any more once stopped.
  std::string push(std::string_view text);
  // The text has ended: what was held back, unless stopped.
  std::string finish();
  bool stopped() const { return stopped_; }
  // The stop string that was met.
  const std::string& met() const { return met_; }

 private:
  // One stop string with its Knuth-Morris-Pratt table.
  struct Matcher {
    std::string stop;
    std::vector<size_t> border;  // of each prefix: its longest proper prefix that is also its suffix
    size_t matched = 0;          // bytes of `stop` that the text so far ends with
    void step(char c);
  };

  std::vector<Matcher> matchers_;
  std::string held_;
  std::string met_;
  bool stopped_ = false;
};

}  // namespace spillway

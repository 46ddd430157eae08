#include "runtime/stop.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace spillway {

StopStrings::StopStrings(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    if (stop.empty()) throw Error(ErrorKind::usage, "--stop: an empty text would stop at once");
    Matcher matcher{.stop = stop, .border = std::vector<size_t>(stop.size() + 1, 0)};
    for (size_t end = 2, length = 0; end <= stop.size(); ++end) {
      while (length > 0 && stop[length] != stop[end - 1]) length = matcher.border[length];
      if (stop[length] == stop[end - 1]) ++length;
      matcher.border[end] = length;
    }
    matchers_.push_back(std::move(matcher));
  }
}

void StopStrings::Matcher::step(char c) {
  while (matched > 0 && stop[matched] != c) matched = border[matched];
  if (stop[matched] == c) ++matched;
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return "";
  size_t hold = 0;  // the longest beginning of a stop string that the text ends with
  for (size_t i = 0; i < text.size(); ++i) {
    hold = 0;
    const Matcher* whole = nullptr;
    for (Matcher& matcher : matchers_) {
      matcher.step(text[i]);
      hold = std::max(hold, matcher.matched);
      const bool complete = matcher.matched == matcher.stop.size();
      if (complete && (whole == nullptr || matcher.stop.size() > whole->stop.size())) whole = &matcher;
    }
    if (whole != nullptr) {
      stopped_ = true;
      met_ = whole->stop;
      std::string out = std::exchange(held_, "").append(text.substr(0, i + 1));
      out.resize(out.size() - met_.size());
      return out;
    }
  }
  if (text.empty()) return "";
  std::string out = std::exchange(held_, "").append(text);
  held_ = out.substr(out.size() - hold);
  out.resize(out.size() - hold);
  return out;
}

std::string StopStrings::finish() { return stopped_ ? "" : std::exchange(held_, ""); }

}  // namespace spillway

#include "loader/text/split.h"

#include "kernels/check.h"

namespace spillway {

Split::Split(std::shared_ptr<const Regex> regex, SplitBehavior behavior, bool invert)
    : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {
  SPILLWAY_CHECK(regex_);
}

Split::Split(std::string literal, SplitBehavior behavior, bool invert)
    : literal_(std::move(literal)), behavior_(behavior), invert_(invert) {
  SPILLWAY_CHECK(!literal_.empty());
}

template <typename Take>
void Split::ranges(std::string_view text, const Take& take) const {
  if (regex_) {
    regex_->for_each(text, [&](size_t begin, size_t end, bool match) { take(begin, end, match != invert_); });
    return;
  }
  size_t done = 0;
  while (done < text.size()) {
    const size_t found = text.find(literal_, done);
    const size_t begin = found == std::string_view::npos ? text.size() : found;
    if (begin > done) take(done, begin, invert_);
    if (begin == text.size()) return;
    done = begin + literal_.size();
    take(begin, done, !invert_);
  }
}

void Split::apply(std::string_view text, std::vector<std::string_view>& pieces) const {
  // The piece that may still grow: none when begin == end.
  size_t begin = 0, end = 0;
  bool last_matched = false, any = false;
  const auto flush = [&] {
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
  };
  const auto start = [&](size_t from, size_t to) {
    flush();
    begin = from;
    end = to;
  };
  ranges(text, [&](size_t from, size_t to, bool match) {
    bool joins = false;
    switch (behavior_) {
      case SplitBehavior::removed:
      case SplitBehavior::isolated:
        break;
      case SplitBehavior::merged_with_previous:
        joins = match && any && !last_matched;
        break;
      case SplitBehavior::merged_with_next:
        joins = !match && any && last_matched;
        break;
      case SplitBehavior::contiguous:
        joins = any && match == last_matched;
        break;
    }
    if (match && behavior_ == SplitBehavior::removed) {
      start(to, to);
    } else if (joins) {
      end = to;
    } else {
      start(from, to);
    }
    last_matched = match;
    any = true;
  });
  flush();
}

}  // namespace spillway

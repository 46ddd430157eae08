#include "runtime/batch_schedule.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "memory/kv/layout.h"

namespace spillway {

BatchSchedule::BatchSchedule(ScheduleLimits limits)
    : limits_(std::move(limits)), references_(static_cast<size_t>(limits_.pages), 0) {
  SPILLWAY_CHECK(limits_.sequences >= 1 && limits_.chunk >= 1 && limits_.rows >= limits_.chunk);
  SPILLWAY_CHECK(limits_.rows >= limits_.chunk + limits_.sequences || limits_.sequences == 1);
  SPILLWAY_CHECK(limits_.shared_unit % kPageTokens == 0 && limits_.most_apart >= 1);
  for (int page = limits_.pages; page > 0; --page) free_.push_back(page - 1);
}

BatchSchedule::Request& BatchSchedule::of(RequestId request) {
  const auto found = std::find_if(running_.begin(), running_.end(), [&](const Request& r) { return r.id == request; });
  SPILLWAY_CHECK(found != running_.end());
  return *found;
}

void BatchSchedule::add(RequestId request, std::span<const int32_t> prompt, int positions, bool endless, int drawn) {
  SPILLWAY_CHECK(request >= 0 && !prompt.empty() && positions >= static_cast<int>(prompt.size()));
  SPILLWAY_CHECK(page_rows(positions) <= limits_.pages && !(endless && limits_.own_pages > 0));
  queue({.id = request, .prompt = prompt, .positions = positions, .endless = endless, .drawn = drawn, .pages = {}});
}

void BatchSchedule::queue(Request request) {
  const auto after =
      std::find_if(waiting_.begin(), waiting_.end(), [&](const Request& r) { return r.id > request.id; });
  waiting_.insert(after, std::move(request));
}

// The running request with the longest beginning in common: all of the prompt but its last token, whose logits are
// wanted. Among equals the one that has it first.
const BatchSchedule::Request* BatchSchedule::likest(const Request& request, int* shared) const {
  const Request* best = nullptr;
  *shared = 0;
  if (limits_.shared_unit == 0) return nullptr;
  for (const Request& other : running_) {
    const size_t most = std::min(request.prompt.size() - 1, other.prompt.size());
    const auto begin = request.prompt.begin(), end = begin + static_cast<ptrdiff_t>(most);
    const auto alike = static_cast<int>(std::mismatch(begin, end, other.prompt.begin()).first - begin);
    const int whole = alike / limits_.shared_unit * limits_.shared_unit;
    if (whole <= *shared || (!limits_.shares_any_time && reached(other) > whole)) continue;
    best = &other;
    *shared = whole;
  }
  return best;
}

// Positions that it will take, as far as can be told. Of answers under way only the beginning is known, and short ones
// end first, so their mean would be too low: this is the mean of which all that has been drawn is likeliest, were an
// answer as likely to end at any token (Epstein and Sobel, Life Testing, 1953). The first guess counts as one answer.
int BatchSchedule::expected(const Request& request) const {
  if (!request.endless) return request.positions;
  const int prompt = static_cast<int>(request.prompt.size()), held = std::max(request.computed, prompt);
  const int64_t more = (kExpectedAnswer + drawn_) / (1 + ended_) - (request.drawn + held - prompt);
  return static_cast<int>(std::min<int64_t>(request.positions, held + std::max<int64_t>(more, kLeastGrowth)));
}

bool BatchSchedule::place(Request& request) {
  int shared = 0;
  const Request* other = likest(request, &shared);
  const int kept = std::max(0, shared / kPageTokens - limits_.own_pages);
  int wanted = page_rows(expected(request)) - kept;
  for (const Request& r : running_) wanted += std::max(0, page_rows(expected(r)) - static_cast<int>(r.pages.size()));
  if (wanted > static_cast<int>(free_.size())) return false;
  if (other != nullptr) {
    request.from = other->id;
    request.shared = shared;
    request.pages.assign(other->pages.begin(), other->pages.begin() + kept);
    for (const int page : request.pages) ++references_[static_cast<size_t>(page)];
  }
  const auto now = request.endless ? static_cast<int>(request.prompt.size()) : request.positions;
  take_pages(request, static_cast<size_t>(page_rows(now) - kept));
  return true;
}

void BatchSchedule::take_pages(Request& request, size_t count) {
  for (; count > 0; --count) {
    ++references_[static_cast<size_t>(free_.back())];
    request.pages.push_back(free_.back());
    free_.pop_back();
  }
}

std::vector<RequestId> BatchSchedule::make_room() {
  std::vector<RequestId> back;
  for (;;) {
    const auto lacking =
        std::find_if(running_.begin(), running_.end(), [](const Request& r) { return r.lacks_page(); });
    if (lacking == running_.end()) return back;
    if (!free_.empty()) {
      take_pages(*lacking, 1);
      continue;
    }
    const auto youngest = std::find_if(running_.rbegin(), running_.rend(), [](const Request& r) { return r.endless; });
    // To give its own pages up would help nobody: it keeps them until an older one needs them, or a page is free. None
    // is admitted meanwhile, and what runs beside it ends.
    if (youngest->id == lacking->id) return back;
    back.push_back(youngest->id);
    leave(youngest->id);
  }
}

// First come, first served: what is behind one that has no room waits too, or the large ones would wait for ever.
std::vector<RequestId> BatchSchedule::admit() {
  std::vector<RequestId> admitted;
  while (!waiting_.empty() && has_place() && place(waiting_.front())) {
    waiting_.front().last_pass = passes_;
    admitted.push_back(waiting_.front().id);
    const auto after =
        std::find_if(running_.begin(), running_.end(), [&](const Request& r) { return r.id > admitted.back(); });
    running_.insert(after, std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return admitted;
}

std::vector<ScheduledFork> BatchSchedule::forks() {
  std::vector<ScheduledFork> forks;
  for (Request& request : running_) {
    if (request.from == kNobody || of(request.from).computed < request.shared) continue;
    forks.push_back({request.id, request.from, request.shared});
    request.from = kNobody;
    request.computed = request.shared;
  }
  return forks;
}

ScheduledPart BatchSchedule::part_of(const Request& request) const {
  if (request.decodes()) return {.request = request.id, .first = request.computed, .count = 1, .decode = true};
  const int prompt = static_cast<int>(request.prompt.size());
  const int end = std::min(prompt, (request.computed / limits_.chunk + 1) * limits_.chunk);
  return {.request = request.id,
          .first = request.computed,
          .count = end - request.computed,
          .decode = false,
          .ends_prompt = end == prompt};
}

// Every decode step that may share a pass, then the chunks of prompts that there is room for: always the first one's.
std::vector<ScheduledPart> BatchSchedule::common_pass() const {
  std::vector<ScheduledPart> parts;
  int left = limits_.rows;
  for (const bool decodes : {true, false}) {
    for (const Request& request : running_) {
      if (!can_run(request) || request.decodes() != decodes || apart(request)) continue;
      const ScheduledPart part = part_of(request);
      if (part.count > left) continue;
      left -= part.count;
      parts.push_back(part);
    }
  }
  return parts;
}

// Of the decode steps that share no other pass those that have waited longest, in the order of arrival.
std::vector<ScheduledPart> BatchSchedule::pass_apart() const {
  std::vector<const Request*> steps;
  for (const Request& request : running_) {
    if (can_run(request) && apart(request)) steps.push_back(&request);
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Request* a, const Request* b) { return a->last_pass < b->last_pass; });
  steps.resize(std::min<size_t>(steps.size(), static_cast<size_t>(limits_.most_apart)));
  std::sort(steps.begin(), steps.end());  // as they lie in running_
  std::vector<ScheduledPart> parts;
  for (const Request* request : steps) parts.push_back(part_of(*request));
  return parts;
}

// The pass of whoever has waited longest.
std::vector<ScheduledPart> BatchSchedule::next_pass() {
  ++passes_;
  const auto waited_since = [&](const std::vector<ScheduledPart>& parts) {
    int64_t since = passes_;
    for (const ScheduledPart& part : parts) since = std::min(since, of(part.request).last_pass);
    return since;
  };
  std::vector<ScheduledPart> parts = common_pass(), others = pass_apart();
  if (waited_since(others) < waited_since(parts)) parts.swap(others);
  for (const ScheduledPart& part : parts) of(part.request).last_pass = passes_;
  return parts;
}

void BatchSchedule::computed(std::span<const ScheduledPart> parts) {
  for (const ScheduledPart& part : parts) {
    Request& request = of(part.request);
    SPILLWAY_CHECK(request.computed == part.first && part.first + part.count <= request.positions);
    SPILLWAY_CHECK(page_rows(part.first + part.count) <= static_cast<int>(request.pages.size()));
    request.computed += part.count;
    drawn_ += request.endless && part.decode ? 1 : 0;
  }
}

void BatchSchedule::end(RequestId id) {
  ended_ += of(id).endless && of(id).decodes() ? 1 : 0;
  leave(id);
}

void BatchSchedule::leave(RequestId id) {
  for (const int page : of(id).pages) {
    if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
  }
  std::erase_if(running_, [&](const Request& request) { return request.id == id; });
  // Those that waited for its beginning, which never came, have begun nothing: they look for a place, and for another
  // one's beginning, once more.
  for (;;) {
    const auto next = std::find_if(running_.begin(), running_.end(), [&](const Request& r) { return r.from == id; });
    if (next == running_.end()) return;
    Request again = *next;
    leave(again.id);
    again.from = kNobody;
    again.shared = 0;
    again.pages.clear();
    queue(std::move(again));
  }
}

}  // namespace spillway

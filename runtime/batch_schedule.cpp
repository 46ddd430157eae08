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

void BatchSchedule::add(RequestId request, std::span<const int32_t> prompt, int positions) {
  SPILLWAY_CHECK(request >= 0 && !prompt.empty() && positions >= static_cast<int>(prompt.size()));
  SPILLWAY_CHECK(page_rows(positions) <= limits_.pages);
  waiting_.push_back({.id = request, .prompt = prompt, .positions = positions, .pages = {}});
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

bool BatchSchedule::place(Request& request) {
  int shared = 0;
  const Request* other = likest(request, &shared);
  const auto kept = static_cast<size_t>(std::max(0, shared / kPageTokens - limits_.own_pages));
  const size_t own = static_cast<size_t>(page_rows(request.positions)) - kept;
  if (own > free_.size()) return false;
  if (other != nullptr) {
    request.from = other->id;
    request.shared = shared;
    request.pages.assign(other->pages.begin(), other->pages.begin() + static_cast<ptrdiff_t>(kept));
  }
  request.pages.insert(request.pages.end(), free_.end() - static_cast<ptrdiff_t>(own), free_.end());
  free_.resize(free_.size() - own);
  for (const int page : request.pages) ++references_[static_cast<size_t>(page)];
  return true;
}

// First come, first served: what is behind one that has no room waits too, or the large ones would wait for ever.
std::vector<RequestId> BatchSchedule::admit() {
  std::vector<RequestId> admitted;
  while (!waiting_.empty() && has_place() && place(waiting_.front())) {
    running_.push_back(std::move(waiting_.front()));
    running_.back().last_pass = passes_;
    waiting_.pop_front();
    admitted.push_back(running_.back().id);
  }
  return admitted;
}

std::vector<ScheduledFork> BatchSchedule::forks() {
  std::vector<ScheduledFork> forks;
  for (Request& request : running_) {
    if (can_run(request) || of(request.from).computed < request.shared) continue;
    forks.push_back({request.id, request.from, request.shared});
    request.from = kNobody;
    request.computed = request.shared;
    tokens_shared_ += request.shared;
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
    request.computed += part.count;
  }
}

void BatchSchedule::end(RequestId id) {
  for (const int page : of(id).pages) {
    if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
  }
  inherit(id);
  std::erase_if(running_, [&](const Request& request) { return request.id == id; });
}

// What others waited for never came: the one that shares most of it computes it in their place.
void BatchSchedule::inherit(RequestId id) {
  Request* heir = nullptr;
  for (Request& request : running_) {
    if (request.from == id && (heir == nullptr || request.shared > heir->shared)) heir = &request;
  }
  if (heir == nullptr) return;
  for (Request& request : running_) {
    if (request.from == id) request.from = &request == heir ? kNobody : heir->id;
  }
}

}  // namespace spillway

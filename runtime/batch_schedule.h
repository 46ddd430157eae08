// BatchSchedule: which requests have room, and what of each the next pass computes (continuous batching, Orca, OSDI
// '22, section 3; prompts in chunks beside decode steps, Sarathi, arXiv 2308.16369). It speaks of numbers of tokens and
// pages, and knows neither engine nor text.
//
// A request is admitted, in the order of arrival, when the pages of all positions that it may ever take are free, and
// they are its own until it ends. One whose answer has no bound but the context's (endless) is admitted when what it,
// and all that run, are expected to take is free. It gets page after page as it grows; where none is free the youngest
// endless one is put back: it waits again, before all that came after it, and is computed again with what it has drawn
// (preemption by recomputation: PagedAttention, arXiv 2309.06180, section 4.5). The oldest is never put back, and the
// pages hold any one request, so it ends. Requests whose prompts begin alike share the full pages of what is alike,
// which count once (but `own_pages`).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "kernels/kv_page.h"

namespace spillway {

using RequestId = int64_t;

// Of an endless request, before any has ended: above the few hundred tokens of most answers.
inline constexpr int kExpectedAnswer = 512;
// Tokens by which every endless request that runs may grow, at least, when another one is admitted: so for as many
// passes after it nobody is put back, and what is computed again is worth it.
inline constexpr int kLeastGrowth = 2 * kPageTokens;

struct ScheduleLimits {
  int pages = 0;      // page rows of one layer, of all sequences together
  int sequences = 1;  // at once, each with one part of a pass at most
  int rows = 0;       // tokens of a pass at most: a chunk and `sequences` beside it
  int chunk = 0;      // tokens of a prompt at once: cut at multiples of it, wherever a shared beginning ends
  int shared_unit = kPageTokens;  // beginnings are shared in multiples of so many tokens, whole pages; 0: never
  int own_pages = 0;              // of a shared beginning the last ones, of which each sequence comes to have its own
  bool shares_any_time = true;    // else only while the other has not gone on beyond what is alike
  // Whether a decode step over so many positions shares passes with its like alone, `most_apart` of them at most;
  // empty: none does.
  std::function<bool(int tokens)> apart = {};
  int most_apart = 1;
};

struct ScheduledPart {
  RequestId request = 0;
  int first = 0, count = 0;  // tokens of its sequence
  bool decode = false;
  bool ends_prompt = false;  // its last token's logits are wanted
};

// A sequence that begins with the tokens of another one.
struct ScheduledFork {
  RequestId request = 0, from = 0;
  int tokens = 0;
};

class BatchSchedule {
 public:
  explicit BatchSchedule(ScheduleLimits limits);

  // Whether one more request would be looked at now.
  bool wants_more() const { return waiting_.empty() && has_place(); }
  // Requests are numbered in the order of arrival. positions: of the prompt and its answer at most; they must fit the
  // pages. The prompt stays where it is. endless: it may be put back (not where there are own_pages); then it comes
  // again, the `drawn` tokens of its answer behind its prompt.
  void add(RequestId request, std::span<const int32_t> prompt, int positions, bool endless = false, int drawn = 0);
  // Those that run have room for the next pass, the oldest first, but for the youngest endless one, which may have to
  // wait with what it has. Returns those that were put back for it: their sequences are to be closed, and they are to
  // be added again.
  std::vector<RequestId> make_room();
  // Those that have room now begin to run; returns them.
  std::vector<RequestId> admit();
  // To be made before anything else happens to either: of requests just admitted, and of those whose other has computed
  // enough since.
  std::vector<ScheduledFork> forks();
  // Parts of the next pass, in the order of arrival, decode steps first; empty: nothing runs. After make_room().
  std::vector<ScheduledPart> next_pass();
  // The parts have been computed.
  void computed(std::span<const ScheduledPart> parts);
  // A request has ended, or has failed; its pages are free. Those that still waited for its beginning wait for a place
  // again.
  void end(RequestId request);

  int running() const { return static_cast<int>(running_.size()); }
  // Whether one more may run, if there are pages for it.
  bool has_place() const { return running() < limits_.sequences; }
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int pages_used() const { return limits_.pages - static_cast<int>(free_.size()); }

 private:
  static constexpr RequestId kNobody = -1;
  struct Request {
    RequestId id = 0;
    std::span<const int32_t> prompt;
    int positions = 0;
    bool endless = false;
    int drawn = 0;  // of the prompt's tokens
    int computed = 0;
    RequestId from = kNobody;  // whose first `shared` tokens it waits for
    int shared = 0;
    int64_t last_pass = 0;
    std::vector<int> pages;

    bool decodes() const { return computed >= static_cast<int>(prompt.size()); }
    bool lacks_page() const { return endless && computed / kPageTokens >= static_cast<int>(pages.size()); }
  };

  Request& of(RequestId request);
  // Tokens that it has computed, or will have the moment it begins.
  static int reached(const Request& r) { return r.from == kNobody ? r.computed : r.shared; }
  const Request* likest(const Request& request, int* shared) const;
  int expected(const Request& request) const;
  bool place(Request& request);
  void take_pages(Request& request, size_t count);
  void queue(Request request);
  void leave(RequestId id);
  bool apart(const Request& request) const {
    return limits_.apart && request.decodes() && limits_.apart(request.computed + 1);
  }
  bool can_run(const Request& request) const { return request.from == kNobody && !request.lacks_page(); }
  std::vector<ScheduledPart> common_pass() const;
  std::vector<ScheduledPart> pass_apart() const;
  ScheduledPart part_of(const Request& request) const;

  ScheduleLimits limits_;
  std::deque<Request> waiting_;   // in the order of arrival
  std::vector<Request> running_;  // in the order of arrival
  std::vector<int> references_;   // of each page
  std::vector<int> free_;         // pages
  int64_t passes_ = 0;
  int64_t drawn_ = 0, ended_ = 0;  // of endless requests: tokens decoded, and answers that have ended
};

}  // namespace spillway

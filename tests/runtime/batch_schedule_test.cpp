// Whatever requests come, in whatever order and of whatever lengths: none is short of pages, none waits for ever, and
// of each every token is computed once, in order, from pages that hold what it begins with; again only where it had to
// give its pages to older ones.
#include "runtime/batch_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "memory/kv/layout.h"

namespace spillway {
namespace {

// What a cache would hold: pages by numbers of their own, counted by reference; a page is packed when `recent` more
// are full, and packed apart where others have it too.
class Pages {
 public:
  explicit Pages(int recent) : recent_(recent) {}
  void fork(RequestId to, RequestId from, int tokens) {
    tables_[to].assign(tables_[from].begin(), tables_[from].begin() + tokens / kPageTokens);
  }
  void grow(RequestId request, int tokens) {
    std::vector<int>& table = tables_[request];
    while (static_cast<int>(table.size()) < page_rows(tokens)) table.push_back(next_++);
    for (int row = 0; recent_ > 0 && row < tokens / kPageTokens - recent_; ++row) {
      if (packed_.count(table[row]) > 0) continue;
      if (owners(table[row]) > 1) table[row] = next_++;
      packed_.insert(table[row]);
    }
  }
  void close(RequestId request) { tables_.erase(request); }
  int used() const {
    std::set<int> all;
    for (const auto& [request, table] : tables_) all.insert(table.begin(), table.end());
    return static_cast<int>(all.size());
  }

 private:
  int64_t owners(int page) const {
    return std::count_if(tables_.begin(), tables_.end(), [&](const auto& one) {
      return std::find(one.second.begin(), one.second.end(), page) != one.second.end();
    });
  }

  const int recent_;
  std::map<RequestId, std::vector<int>> tables_;
  std::set<int> packed_;
  int next_ = 0;
};

struct Wish {
  std::vector<int32_t> prompt;
  int answer = 1;      // tokens that will come, of
  int most = 1;        // those that may
  bool fails = false;  // in the middle of its prompt
  bool endless = false;
};

class ScheduleWorld {
 public:
  ScheduleWorld(uint64_t seed, ScheduleLimits limits)
      : random_(seed), limits_(limits), schedule_(limits), pages_(limits.own_pages) {}

  void run(const std::vector<Wish>& wishes) {
    wishes_ = &wishes;
    size_t next = 0;
    for (int pass = 0;; ++pass) {
      ASSERT_LT(pass, 200000) << "it ends";
      make_room();
      while (next < wishes.size() && schedule_.wants_more()) add(static_cast<RequestId>(next++));
      admit();
      if (schedule_.running() == 0) {
        if (next == wishes.size()) break;
        continue;
      }
      fork();
      step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(ended_, wishes.size());
    EXPECT_EQ(schedule_.pages_used(), 0);
    EXPECT_EQ(pages_.used(), 0);
  }
  int64_t shared() const { return shared_; }
  int most_parts() const { return most_parts_; }
  int most_apart() const { return most_apart_; }
  int put_backs() const { return put_backs_; }
  int64_t computed() const { return computed_; }
  int64_t recomputed() const { return recomputed_; }

 private:
  void add(RequestId id) {
    const Wish& wish = (*wishes_)[id];
    const int drawn = drawn_[id];
    prompts_[id] = wish.prompt;
    for (int i = 0; i < drawn; ++i) prompts_[id].push_back(static_cast<int32_t>(5000 + 10 * id + i % 10));
    schedule_.add(id, prompts_[id], static_cast<int>(wish.prompt.size()) + wish.most - 1, wish.endless, drawn);
  }

  void admit() {
    for (const RequestId id : schedule_.admit()) {
      if (id == next_admitted_) {
        ASSERT_TRUE(put_back_.empty()) << "in the order of arrival";
        ++next_admitted_;
      } else {
        ASSERT_LT(id, next_admitted_);
        ASSERT_EQ(done_.count(id) > 0 ? done_.at(id) : 0, 0) << "it had begun nothing, or lost it";
        if (put_back_.count(id) > 0) {
          ASSERT_EQ(id, *put_back_.begin());
        }
        put_back_.erase(id);
      }
      done_[id] = 0;
      last_admission_ = passes_;
    }
  }

  bool lacks_page(RequestId id, int done) const {
    return (*wishes_)[id].endless && done % kPageTokens == 0 && done >= static_cast<int>(prompts_.at(id).size());
  }

  // Only where pages are wanted, only the youngest without an end, and never soon after one was admitted.
  void make_room() {
    const int free = limits_.pages - schedule_.pages_used();
    const auto lacking =
        std::count_if(done_.begin(), done_.end(), [&](const auto& one) { return lacks_page(one.first, one.second); });
    for (const RequestId id : schedule_.make_room()) {
      ASSERT_GT(lacking, free);
      ASSERT_GE(passes_ - last_admission_, kLeastGrowth);
      ASSERT_TRUE((*wishes_)[id].endless);
      int older = 0;
      for (const auto& [other, done] : done_) {
        if (!(*wishes_)[other].endless) continue;
        ASSERT_LE(other, id) << "the youngest";
        older += other < id ? 1 : 0;
      }
      ASSERT_GE(older, 1) << "never the oldest";
      recomputed_ += done_.at(id);
      ++put_backs_;
      put_back_.insert(id);
      pages_.close(id);
      done_.erase(id);
      add(id);
    }
  }

  // Of those without an end, unless it runs beside others alone.
  void expect_the_oldest_goes_on(const std::set<RequestId>& parts) const {
    std::vector<RequestId> endless;
    for (const auto& [id, done] : done_) {
      if ((*wishes_)[id].endless) endless.push_back(id);
    }
    if (endless.size() < 2 || limits_.apart) return;
    const RequestId oldest = endless.front();
    if (done_.at(oldest) < static_cast<int>(prompts_.at(oldest).size())) return;
    ASSERT_EQ(parts.count(oldest), 1u);
  }

  void fork() {
    for (const ScheduledFork& fork : schedule_.forks()) {
      ASSERT_GE(done_.at(fork.from), fork.tokens);
      ASSERT_TRUE(limits_.shares_any_time || done_.at(fork.from) == fork.tokens) << "before it goes on";
      ASSERT_EQ(done_.at(fork.request), 0);
      const auto &a = prompts_.at(fork.request), &b = prompts_.at(fork.from);
      ASSERT_LT(fork.tokens, static_cast<int>(a.size()));
      ASSERT_TRUE(std::equal(a.begin(), a.begin() + fork.tokens, b.begin()));
      ASSERT_EQ(fork.tokens % limits_.shared_unit, 0);
      pages_.fork(fork.request, fork.from, fork.tokens);
      done_[fork.request] = fork.tokens;
      shared_ += fork.tokens;
    }
  }

  void step() {
    const std::vector<ScheduledPart> parts = schedule_.next_pass();
    ASSERT_FALSE(parts.empty());
    int rows = 0, apart = 0;
    std::set<RequestId> seen;
    for (const ScheduledPart& part : parts) {
      const int prompt = static_cast<int>(prompts_.at(part.request).size());
      ASSERT_TRUE(seen.insert(part.request).second);
      ASSERT_EQ(part.first, done_.at(part.request)) << "in order, nothing twice";
      ASSERT_EQ(part.decode, part.first >= prompt);
      if (!part.decode) {
        ASSERT_EQ(part.first / limits_.chunk, (part.first + part.count - 1) / limits_.chunk)
            << "cut where it always is";
        ASSERT_EQ(part.ends_prompt, part.first + part.count == prompt);
      } else if (limits_.apart && limits_.apart(part.first + 1)) {
        ++apart;
      }
      rows += part.count;
      drawn_[part.request] += part.decode || part.ends_prompt ? 1 : 0;
      pages_.grow(part.request, part.first + part.count);
      done_[part.request] += part.count;
    }
    ASSERT_TRUE(apart == 0 || apart == static_cast<int>(parts.size())) << "with its like alone";
    ASSERT_LE(apart, limits_.most_apart);
    most_apart_ = std::max(most_apart_, apart);
    expect_the_oldest_goes_on(seen);
    computed_ += rows;
    ASSERT_LE(rows, limits_.rows);
    ASSERT_LE(static_cast<int>(parts.size()), limits_.sequences);
    ASSERT_LE(pages_.used(), schedule_.pages_used()) << "what is used was counted";
    ASSERT_LE(schedule_.pages_used(), limits_.pages);
    most_parts_ = std::max(most_parts_, static_cast<int>(parts.size()));
    ++passes_;
    schedule_.computed(parts);
    fork();
    for (const ScheduledPart& part : parts) end_where_done(part);
  }

  void end_where_done(const ScheduledPart& part) {
    const Wish& wish = (*wishes_)[part.request];
    const int tokens = done_.at(part.request) - static_cast<int>(wish.prompt.size()) + 1;
    if (tokens < wish.answer && !(wish.fails && !part.decode)) return;
    schedule_.end(part.request);
    pages_.close(part.request);
    done_.erase(part.request);
    ++ended_;
  }

  std::mt19937_64 random_;
  ScheduleLimits limits_;
  BatchSchedule schedule_;
  Pages pages_;
  const std::vector<Wish>* wishes_ = nullptr;
  std::map<RequestId, std::vector<int32_t>> prompts_;  // as they were added last
  std::map<RequestId, int> done_;                      // tokens computed
  std::map<RequestId, int> drawn_;
  std::set<RequestId> put_back_;
  RequestId next_admitted_ = 0;
  size_t ended_ = 0;
  int passes_ = 0, last_admission_ = 0, put_backs_ = 0;
  int64_t shared_ = 0, computed_ = 0, recomputed_ = 0;
  int most_parts_ = 0, most_apart_ = 0;
};

std::vector<Wish> random_wishes(std::mt19937_64& random, int count, int most_positions, int beginnings) {
  const auto upto = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
  std::vector<Wish> wishes;
  for (int i = 0; i < count; ++i) {
    Wish wish;
    // Some begin alike, and go on differently from somewhere on.
    const int length = 1 + upto(most_positions - 1), alike = upto(4) == 0 ? 0 : upto(length + 1),
              kind = upto(beginnings);
    for (int at = 0; at < length; ++at) wish.prompt.push_back(at < alike ? 1000 * kind + at : upto(1000));
    wish.most = 1 + upto(most_positions - length + 1);
    wish.answer = 1 + upto(wish.most);
    wish.fails = upto(10) == 0;
    wishes.push_back(std::move(wish));
  }
  return wishes;
}

TEST(BatchSchedule, RandomRequestsAllEndAndNothingIsExceeded) {
  std::mt19937_64 random(11);
  int64_t shared = 0;
  int most_parts = 0, most_apart = 0;
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(round);
    const int positions = 64 + static_cast<int>(random() % 800);
    ScheduleLimits limits;
    limits.sequences = 1 + static_cast<int>(random() % 24);
    limits.pages = page_rows(positions) * (1 + static_cast<int>(random() % 6)) + 2 * (limits.sequences - 1);
    limits.chunk = round % 3 == 0 ? 64 : 1 + static_cast<int>(random() % 300);
    limits.rows = limits.chunk + limits.sequences;
    if (round % 4 == 1) limits.shared_unit = 2 * kPageTokens;
    if (round % 2 == 0) limits.own_pages = 2;
    limits.shares_any_time = round % 6 != 0;  // their chunks are pages
    const int threshold = positions / 2;
    if (round % 5 == 2) {
      limits.apart = [threshold](int tokens) { return tokens > threshold; };
      limits.most_apart = 1 + static_cast<int>(random() % limits.sequences);
    }
    ScheduleWorld world(random(), limits);
    world.run(random_wishes(random, 80, positions, 1 + round % 3));
    if (::testing::Test::HasFatalFailure()) return;
    shared += world.shared();
    most_parts = std::max(most_parts, world.most_parts());
    most_apart = std::max(most_apart, world.most_apart());
  }
  EXPECT_GT(shared, 10000);
  EXPECT_GT(most_parts, 8);
  EXPECT_GT(most_apart, 3);
}

// Most answers without an end are short and some take all there is, so that what is expected is often wrong.
TEST(BatchSchedule, RandomEndlessRequestsAllEndAndLittleIsComputedTwice) {
  std::mt19937_64 random(12);
  const auto upto = [&](int n) { return static_cast<int>(random() % static_cast<uint64_t>(n)); };
  int64_t shared = 0, computed = 0, recomputed = 0;
  int put_backs = 0;
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(round);
    const int positions = 300 + upto(900);
    ScheduleLimits limits;
    limits.sequences = 2 + upto(24);
    limits.pages = page_rows(positions) * (1 + upto(4));
    limits.chunk = round % 3 == 0 ? 64 : 1 + upto(300);
    limits.rows = limits.chunk + limits.sequences;
    if (round % 4 == 1) limits.shared_unit = 2 * kPageTokens;
    std::vector<Wish> wishes = random_wishes(random, 100, positions, 1 + round % 3);
    for (Wish& wish : wishes) {
      if (upto(4) > 0) wish.prompt.resize(1 + wish.prompt.size() / 4);
      const int length = static_cast<int>(wish.prompt.size());
      wish.fails = false;
      wish.endless = upto(5) > 0;
      if (!wish.endless) continue;
      wish.most = positions - length + 1;
      wish.answer = upto(4) == 0 ? wish.most : 1 + upto(std::min(wish.most, 60));
    }
    ScheduleWorld world(random(), limits);
    world.run(wishes);
    if (::testing::Test::HasFatalFailure()) return;
    shared += world.shared();
    put_backs += world.put_backs();
    computed += world.computed();
    recomputed += world.recomputed();
  }
  std::printf("  %d put back, %ld of %ld tokens computed again\n", put_backs, static_cast<long>(recomputed),
              static_cast<long>(computed));
  EXPECT_GT(shared, 10000);
  EXPECT_GT(put_backs, 100);
  EXPECT_LT(recomputed, computed / 5);
}

// The parts of the next pass, computed.
std::vector<RequestId> pass(BatchSchedule& schedule) {
  schedule.forks();
  const auto parts = schedule.next_pass();
  schedule.computed(parts);
  std::vector<RequestId> requests;
  for (const ScheduledPart& part : parts) requests.push_back(part.request);
  std::sort(requests.begin(), requests.end());
  return requests;
}

using Ids = std::vector<RequestId>;

// Until somebody is put back.
Ids passes_until_put_back(BatchSchedule& schedule) {
  for (int passes = 0; passes < 2000; ++passes) {
    if (Ids back = schedule.make_room(); !back.empty()) return back;
    pass(schedule);
  }
  return {};
}

// Requests from 0 on whose answers have one token: little is expected of the next.
void answer_shortly(BatchSchedule& schedule, int requests) {
  const std::vector<int32_t> prompt{7};
  for (RequestId id = 0; id < requests; ++id) {
    schedule.add(id, prompt, 200, true);
    ASSERT_EQ(schedule.admit(), Ids{id});
    pass(schedule);
    schedule.end(id);
  }
}

TEST(BatchSchedule, EndlessOnesAreAdmittedByWhatIsExpected) {
  const std::vector<int32_t> prompt(64, 1);
  for (const bool endless : {false, true}) {
    BatchSchedule schedule({.pages = 32, .sequences = 16, .rows = 80, .chunk = 64});
    for (RequestId id = 0; id < 8; ++id) schedule.add(id, prompt, 1024, endless);
    const Ids admitted = schedule.admit();
    ASSERT_EQ(admitted.size(), endless ? 3u : 2u) << "of 9 pages by expectation, and 16 in all";
    EXPECT_EQ(schedule.pages_used(), endless ? 3 : 32);
    for (size_t i = 0; i < admitted.size(); ++i) pass(schedule);
    for (const RequestId id : admitted) schedule.end(id);
    EXPECT_EQ(schedule.admit().size(), endless ? 5u : 2u) << "the answers were short";
  }
}

TEST(BatchSchedule, TheYoungestEndlessOneMakesRoomAndComesBackInOrder) {
  BatchSchedule schedule({.pages = 30, .sequences = 4, .rows = 68, .chunk = 64});
  const std::vector<int32_t> prompt(64, 1), other(64, 2), shorter(10, 3);
  schedule.add(0, prompt, 1024, true);
  schedule.add(1, other, 1024, true);
  schedule.add(2, shorter, 640);
  ASSERT_EQ(schedule.admit(), (Ids{0, 1, 2}));
  ASSERT_EQ(passes_until_put_back(schedule), Ids{1}) << "the youngest has a bound, and keeps its pages";
  EXPECT_EQ(schedule.running(), 2);
  schedule.add(3, shorter, 64);
  const std::vector<int32_t> again(640, 2);
  schedule.add(1, again, 1024, true, 576);
  EXPECT_EQ(schedule.waiting(), 2);
  EXPECT_TRUE(schedule.admit().empty()) << "a page for the last, but not for the one that came before it";
  EXPECT_EQ(pass(schedule), (Ids{0, 2}));
  schedule.end(0);
  EXPECT_EQ(schedule.admit(), (Ids{1, 3}));
}

// What it has it keeps: nobody else could use it. What is free next is its own.
TEST(BatchSchedule, BesideBoundedOnesTheLastEndlessOneWaitsForAPage) {
  BatchSchedule schedule({.pages = 9, .sequences = 4, .rows = 68, .chunk = 64});
  answer_shortly(schedule, 7);
  const std::vector<int32_t> prompt(10, 1), other(10, 2);
  schedule.add(7, prompt, 384);
  schedule.add(8, other, 512, true);
  ASSERT_EQ(schedule.admit(), (Ids{7, 8}));
  int together = 0;
  for (; pass(schedule) == Ids{7, 8}; ++together) ASSERT_TRUE(schedule.make_room().empty());
  EXPECT_EQ(together, 1 + 192 - 10) << "prompt and three pages";
  schedule.add(9, prompt, 64);
  EXPECT_TRUE(schedule.make_room().empty());
  EXPECT_TRUE(schedule.admit().empty());
  EXPECT_EQ(pass(schedule), Ids{7});
  schedule.end(7);
  EXPECT_TRUE(schedule.make_room().empty());
  EXPECT_EQ(schedule.admit(), Ids{9});
  EXPECT_EQ(pass(schedule), (Ids{8, 9}));
}

TEST(BatchSchedule, WhoWaitsForABeginningThatIsPutBackWaitsForItAgain) {
  BatchSchedule schedule({.pages = 13, .sequences = 5, .rows = 6, .chunk = 1});
  answer_shortly(schedule, 7);
  const std::vector<int32_t> prompt(10, 1), longer(400, 2);
  schedule.add(7, prompt, 832, true);
  schedule.add(8, longer, 832, true);
  schedule.add(9, longer, 410);
  ASSERT_EQ(schedule.admit(), (Ids{7, 8, 9}));
  ASSERT_EQ(passes_until_put_back(schedule), Ids{8}) << "in the middle of its prompt";
  EXPECT_EQ(schedule.running(), 1) << "what another one waited for does not come";
  EXPECT_EQ(schedule.waiting(), 1);
  EXPECT_EQ(schedule.pages_used(), 6);
  schedule.add(8, longer, 832, true);
  EXPECT_TRUE(schedule.admit().empty());
  schedule.end(7);
  EXPECT_EQ(schedule.admit(), (Ids{8, 9}));
  for (int passes = 0; passes < 384; ++passes) {
    EXPECT_TRUE(schedule.forks().empty());
    schedule.computed(schedule.next_pass());
  }
  const std::vector<ScheduledFork> forks = schedule.forks();
  ASSERT_EQ(forks.size(), 1u);
  EXPECT_EQ(forks[0].request, 9);
  EXPECT_EQ(forks[0].from, 8);
  EXPECT_EQ(forks[0].tokens, 384);
}

// Steps that share passes with their like alone, all at once or in turns, and those of all others take turns.
TEST(BatchSchedule, NobodyWaitsForEver) {
  for (const int most_apart : {1, 2, 3}) {
    BatchSchedule schedule({.pages = 100,
                            .sequences = 4,
                            .rows = 68,
                            .chunk = 64,
                            .apart = [](int tokens) { return tokens > 64; },
                            .most_apart = most_apart});
    const std::vector<int32_t> longer(64, 1), shorter(10, 2);
    for (const RequestId id : {0, 1, 3}) {
      schedule.add(id, longer, 200);
      schedule.admit();
    }
    schedule.add(2, shorter, 50);
    schedule.admit();
    std::map<RequestId, int> parts;
    size_t most = 0;
    for (int pass = 0; pass < 39; ++pass) {
      schedule.forks();
      const auto some = schedule.next_pass();
      for (const ScheduledPart& part : some) parts[part.request] += part.decode ? 1 : 0;
      if (some.front().decode && some.front().first >= 64) most = std::max(most, some.size());
      schedule.computed(some);
    }
    EXPECT_EQ(most, static_cast<size_t>(most_apart));
    const int turns = 1 + (3 + most_apart - 1) / most_apart;
    for (const RequestId id : {0, 1, 2, 3}) EXPECT_GE(parts[id], 36 / turns - 2) << id << " of " << most_apart;
  }
}

// A request that nobody has room for yet is not passed by smaller ones that come later.
TEST(BatchSchedule, TheLargeOneIsNotPassed) {
  BatchSchedule schedule({.pages = 4, .sequences = 3, .rows = 67, .chunk = 64});
  const std::vector<int32_t> prompt(10, 1);
  schedule.add(0, prompt, 64);
  EXPECT_EQ(schedule.admit().size(), 1u);
  schedule.add(1, prompt, 4 * 64);
  EXPECT_TRUE(schedule.admit().empty());
  EXPECT_FALSE(schedule.wants_more()) << "one waits already";
  schedule.end(0);
  EXPECT_EQ(schedule.admit(), std::vector<RequestId>{1});
  EXPECT_EQ(schedule.pages_used(), 4);
}

}  // namespace
}  // namespace spillway

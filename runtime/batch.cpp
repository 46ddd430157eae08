#include "runtime/batch.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <map>
#include <memory>

#include "kernels/check.h"
#include "kernels/cpu/team.h"
#include "runtime/batch_schedule.h"
#include "runtime/continuation.h"

namespace spillway {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class BatchRun {
 public:
  BatchRun(Engine& engine, const Tokenizer& tokenizer, const BatchOptions& options, const BatchHooks& hooks)
      : engine_(engine),
        tokenizer_(tokenizer),
        options_(options),
        hooks_(hooks),
        positions_(options.most_positions > 0 ? std::min(options.most_positions, engine.plan().positions)
                                              : engine.plan().positions),
        schedule_(limits(engine, options)),
        drawers_(options.threads) {}

  BatchReport run() {
    const LinkBytes loaded = LinkBytes::of(engine_.traffic());
    const WaitSeconds waited = WaitSeconds::of(engine_.waits());
    while (!(report_.interrupted = hooks_.interrupted && hooks_.interrupted())) {
      refill();
      if (schedule_.running() == 0) break;
      make_forks();
      pass();
      make_forks();  // before those that they come from may end
      answer_ended();
      tell();
    }
    for (const auto& [id, one] : running_) {
      if (one.sequence) engine_.close_sequence(*one.sequence);
    }
    report_.seconds = now() - begin_;
    report_.bytes = LinkBytes::of(engine_.traffic()).since(loaded);
    report_.waits.bytes = WaitSeconds::of(engine_.waits()).since(waited);
    const auto rate = [](int64_t count, double seconds) {
      return seconds > 0 ? static_cast<double>(count) / seconds : 0;
    };
    report_.decode_tps = rate(report_.decode_rows, report_.decode_s);
    report_.prefill_tps = rate(report_.prefill_rows, report_.prefill_s);
    if (decode_passes_ > 0) report_.mean_batch = static_cast<double>(report_.decode_rows) / decode_passes_;
    return report_;
  }

 private:
  struct Running {
    std::unique_ptr<Continuation> growing;
    int32_t token = 0;                   // that its decode step reads
    std::optional<SequenceId> sequence;  // none: it waits for another one's beginning, or for a place
    int held = 0;                        // tokens that it had when it was put back, at most
    bool goes_on = true;
    std::optional<Error> error = {};
    std::exception_ptr failure = {};  // of the job
  };

  static ScheduleLimits limits(Engine& engine, const BatchOptions& options) {
    const Plan& plan = engine.plan();
    const int most = options.most_sequences > 0 ? std::min(options.most_sequences, plan.batch) : plan.batch;
    return {.pages = page_rows(plan.context),
            .sequences = most,
            .rows = plan.chunk + (plan.batch > 1 ? plan.batch : 0),
            .chunk = plan.chunk,
            .shared_unit = engine.lets_go()        ? 0
                           : options.deterministic ? engine.identical_prefix()
                                                   : kPageTokens,
            .own_pages = engine.recent_pages(),
            // What one has packed the other would have read as it was.
            .shares_any_time = !options.deterministic || engine.recent_pages() == 0,
            .apart = [&engine](int tokens) { return engine.decodes_apart(tokens); },
            .most_apart = engine.most_apart()};
  }

  // Asks for requests, and gives those that fit a place, until one waits: so it is known whether any does.
  void refill() {
    for (const RequestId id : schedule_.make_room()) put_back(id);
    do {
      while (!exhausted_ && schedule_.waiting() == 0) take_next();
      schedule_.admit();
      report_.most_sequences = std::max(report_.most_sequences, schedule_.running());
    } while (!exhausted_ && schedule_.waiting() == 0);
  }

  void take_next() {
    const double asked = now();
    std::optional<BatchRequest> request = hooks_.next();
    report_.waits.next += now() - asked;
    if (!request) {
      exhausted_ = true;
      return;
    }
    const uint64_t key = request->key;
    try {
      auto growing = std::make_unique<Continuation>(std::move(*request), tokenizer_, positions_);
      report_.tokens_in += static_cast<int64_t>(growing->prompt().size());
      if (!growing->wants_logits()) return answer(growing->finish());
      running_[next_id_].growing = std::move(growing);
      add(next_id_++);
    } catch (const Error& error) {
      answer({.key = key, .generation = {}, .logprobs = {}, .error = error.what(), .error_kind = error.kind()});
    }
  }

  void add(RequestId id) {
    const Continuation& growing = *running_.at(id).growing;
    schedule_.add(id, growing.prompt(), growing.most_positions(), recomputes_ && growing.endless(), growing.tokens());
  }

  // All but its KV stays, so its answer will be what it would have been.
  void put_back(RequestId id) {
    Running& one = running_.at(id);
    if (one.sequence) {
      one.held = std::max(one.held, engine_.tokens(*one.sequence));
      engine_.close_sequence(*one.sequence);
      one.sequence.reset();
    }
    one.growing->put_back();
    add(id);
    ++report_.put_back;
  }

  void make_forks() {
    for (const ScheduledFork& fork : schedule_.forks()) {
      const SequenceId sequence = engine_.fork_sequence(*running_.at(fork.from).sequence);
      Running& one = running_.at(fork.request);
      one.sequence = sequence;
      report_.tokens_shared += std::max(0, fork.tokens - one.held);
      const int kept = engine_.truncate_sequence(sequence, fork.tokens);
      SPILLWAY_CHECK(kept == fork.tokens);
    }
  }

  void pass() {
    const std::vector<ScheduledPart> parts = schedule_.next_pass();
    SPILLWAY_CHECK(!parts.empty());
    std::vector<PassPart> wanted;
    PassLoad load;
    for (const ScheduledPart& part : parts) {
      Running& one = running_.at(part.request);
      if (!one.sequence) one.sequence = engine_.open_sequence();
      if (part.decode) one.token = one.growing->token();
      const std::span<const int32_t> tokens =
          part.decode ? std::span<const int32_t>(&one.token, 1)
                      : one.growing->prompt().subspan(static_cast<size_t>(part.first), static_cast<size_t>(part.count));
      wanted.push_back({.sequence = *one.sequence,
                        .tokens = tokens,
                        .decode = part.decode,
                        .logit_rows = part.decode || part.ends_prompt ? 1 : 0});
      (part.decode ? load.decoded : load.prefilled) += part.count;
      if (!part.decode) report_.tokens_recomputed += std::clamp(one.held - part.first, 0, part.count);
      load.logit_rows += wanted.back().logit_rows;
      if (part.decode) load.positions += part.first + 1;
    }
    const double begin = now();
    expect_next(parts);
    engine_.step({.parts = wanted,
                  .any_kernel = !options_.deterministic,
                  .next = {.logit_rows = next_rows_, .decodes = true, .sequences = next_}},
                 [&](std::span<const Engine::PartRow> rows) { take(parts, rows); });
    schedule_.computed(parts);
    count(load, now() - begin);
  }

  // Each row is its own request's: whoever draws from it, and when, the token is the same. The device has nothing to
  // compute meanwhile, for what it computes next are these tokens; a row without top-k takes a millisecond.
  void take(std::span<const ScheduledPart> parts, std::span<const Engine::PartRow> rows) {
    const double begin = now();
    drawers_.run(static_cast<int64_t>(rows.size()), [&](int64_t row, int) {
      const Engine::PartRow& one = rows[static_cast<size_t>(row)];
      take(running_.find(parts[one.part].request)->second, one.logits);
    });
    report_.drawing_s += now() - begin;
    for (const Engine::PartRow& row : rows) {
      if (const std::exception_ptr& failure = running_.at(parts[row.part].request).failure) {
        std::rethrow_exception(failure);
      }
    }
  }

  static void take(Running& one, std::span<const float> logits) {
    try {
      one.goes_on = one.growing->take(logits);
    } catch (const Error& error) {  // of these logits, or of this request's wishes
      one.goes_on = false;
      one.error = error;
    } catch (...) {
      one.failure = std::current_exception();
    }
  }

  // What follows while nobody comes or goes: KV that lies elsewhere is fetched for that.
  void expect_next(std::span<const ScheduledPart> parts) {
    next_.clear();
    int rows = 0;
    // Others follow where steps take turns.
    const bool in_turns =
        schedule_.running() > static_cast<int>(parts.size()) &&
        (parts.size() == 1 || (parts.front().decode && engine_.decodes_apart(parts.front().first + 1)));
    for (const ScheduledPart& part : parts) {
      const Running& one = running_.at(part.request);
      const bool goes_on = !part.decode || one.growing->expects_another();
      rows += goes_on ? 1 : 0;
      if (goes_on && part.decode && !in_turns) next_.push_back(*one.sequence);
    }
    const bool others = schedule_.running() > static_cast<int>(parts.size()) || schedule_.waiting() > 0;
    if (next_.size() != parts.size()) next_.clear();
    next_rows_ = rows > 0 || others || !exhausted_ ? std::max(rows, 1) : NextPass::kNone;
  }

  void count(const PassLoad& load, double seconds) {
    ++report_.steps;
    if (schedule_.waiting() > 0) ++(schedule_.has_place() ? report_.short_of_pages : report_.short_of_places);
    report_.decode_rows += load.decoded;
    report_.prefill_rows += load.prefilled;
    decode_passes_ += load.decoded > 0 ? 1 : 0;
    if (hooks_.expected_s) report_.expected_s += hooks_.expected_s(load);
    const double of_decode = seconds * load.decoded / (load.decoded + load.prefilled);
    report_.decode_s += of_decode;
    report_.prefill_s += seconds - of_decode;
  }

  void answer_ended() {
    for (auto it = running_.begin(); it != running_.end();) {
      Running& one = it->second;
      if (one.goes_on) {
        ++it;
        continue;
      }
      schedule_.end(it->first);
      engine_.close_sequence(*one.sequence);
      BatchAnswer done = one.error ? one.growing->fail(*one.error) : one.growing->finish();
      it = running_.erase(it);
      answer(std::move(done));
    }
  }

  void answer(BatchAnswer answer) {
    ++report_.requests;
    report_.failed += answer.error.empty() ? 0 : 1;
    report_.tokens_out += static_cast<int64_t>(answer.generation.tokens.size());
    const double begin = now();
    hooks_.on_answer(std::move(answer));
    report_.waits.answer += now() - begin;
  }

  void tell() {
    if (!hooks_.on_progress) return;
    int64_t growing = 0;
    for (const auto& [id, one] : running_) growing += one.growing->tokens();
    hooks_.on_progress({.done = report_.requests,
                        .failed = report_.failed,
                        .running = schedule_.running(),
                        .waiting = schedule_.waiting(),
                        .tokens_in = report_.tokens_in,
                        .tokens_out = report_.tokens_out + growing,
                        .seconds = now() - begin_});
  }

  Engine& engine_;
  const Tokenizer& tokenizer_;
  const BatchOptions& options_;
  const BatchHooks& hooks_;
  const int positions_;
  const bool recomputes_ = engine_.recomputes(!options_.deterministic);
  BatchSchedule schedule_;
  Team drawers_;
  std::map<RequestId, Running> running_;  // and waiting
  std::vector<SequenceId> next_;
  int next_rows_ = NextPass::kNone;
  RequestId next_id_ = 0;
  bool exhausted_ = false;
  int64_t decode_passes_ = 0;
  const double begin_ = now();
  BatchReport report_;
};

}  // namespace

BatchReport run_batch(Engine& engine, const Tokenizer& tokenizer, const BatchOptions& options,
                      const BatchHooks& hooks) {
  return BatchRun(engine, tokenizer, options, hooks).run();
}

}  // namespace spillway

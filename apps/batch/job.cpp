#include "apps/batch/job.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <unordered_map>

#include "apps/batch/answer_flags.h"
#include "apps/batch/file_names.h"
#include "apps/batch/needs.h"
#include "apps/batch/prompts.h"
#include "apps/batch/report.h"
#include "apps/batch/result_line.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/reports.h"
#include "apps/running.h"
#include "kernels/kv_page.h"
#include "kernels/whole_file.h"
#include "memory/extent.h"
#include "runtime/fingerprint.h"

namespace spillway {
namespace {

constexpr double kLineSeconds = 30;       // between lines of progress in a log
constexpr double kSmoothingSeconds = 60;  // of the time left: requests end in bursts

void say(const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); }

// What the engine refused of one request.
LineFault fault_of(const BatchAnswer& answer, const std::string& custom_id) {
  const ErrorKind kind = answer.error_kind;
  const char* code = kind == ErrorKind::fit     ? "does_not_fit"
                     : kind == ErrorKind::model ? "model_error"
                                                : "invalid_request";
  return {code, answer.error, custom_id};
}

class BatchJob {
 public:
  explicit BatchJob(const BatchFlags& flags)
      : flags_(flags),
        input_("-i", flags.input, kMostLineBytes),
        survey_(input_.survey()),
        running_(flags.run),
        fingerprint_(fingerprint(running_.model().checkpoint)),
        journal_(flags.output, open_record(), flags.retry_failed),
        results_(survey_.hash, running_.tokenizer(), fingerprint_) {
    counts_.requests = flags.shard.share(survey_.requests);
    counts_.before = journal_.answered();
    const int asked = flags.run.options.context;
    limit_ = asked > 0 ? static_cast<int>(align_up(static_cast<uint64_t>(asked), kPageTokens))
                       : running_.model().spec.shape.context;
    input_.set_most_line_bytes(most_line_bytes(limit_));
  }

  int run() {
    say_where_it_is();
    BatchReport report;
    if (journal_.answered() < counts_.requests) {
      start();
      report = answer_all();
    }
    if (!report.interrupted) {
      check_input();
      SPILLWAY_CHECK(journal_.answered() == counts_.requests);
    }
    journal_.finish(flags_.ordered && !report.interrupted);
    return finish(report);
  }

 private:
  JobRecord open_record() const {
    JobFacts facts{.input = survey_, .shard = flags_.shard.index, .shards = flags_.shard.count, .model = fingerprint_};
    facts.flags.emplace_back("--template", flags_.chat_template.identity());
    for (auto& flag : answer_flags(*flags_.command)) facts.flags.push_back(std::move(flag));
    return JobRecord::open(flags_.output, facts, flags_.input);
  }

  Prompts prompts(int most_positions) const {
    return Prompts(running_.tokenizer(), [this] { return flags_.chat_template.resolve(running_.model().checkpoint); },
                   {.most_positions = most_positions,
                    .max_tokens = flags_.max_tokens,
                    .ignore_end = flags_.ignore_end,
                    .seed = flags_.seed});
  }

  void say_where_it_is() const {
    if (journal_.cut_bytes() > 0) {
      say(fmt::format("{}: the last {} bytes were torn, and are cut off", flags_.output, journal_.cut_bytes()));
    }
    if (journal_.retried() > 0) say(fmt::format("{} errors are asked again", journal_.retried()));
    if (counts_.before == 0) return;
    say(fmt::format("{}: {} of {} requests were answered before", flags_.output, counts_.before, counts_.requests));
  }

  std::unique_ptr<Progress> progress(const std::string& label) const {
    ProgressOutput output = ProgressOutput::standard_error(flags_.run.no_color);
    output.line_seconds = kLineSeconds;
    output.smoothing_seconds = kSmoothingSeconds;
    return std::make_unique<Progress>(std::move(output), label, counts_.requests, ProgressUnit::items, "requests",
                                      counts_.before);
  }

  // Reads what is to be answered once, so that the engine's shape fits it.
  BatchNeeds needs() {
    BatchNeeds needs{.guesses = why_not_recomputed().empty()};
    Prompts making = prompts(limit_);
    RequestReader reader(input_, journal_, flags_.shard);
    const auto showing = progress("reading");
    uint64_t read = counts_.before;
    for (RequestReader::Item item; reader.next(item); showing->update(++read)) {
      stop_if_interrupted();
      try {
        if (item.fault) throw *item.fault;
        needs.add(making.request(item.line, item.request), limit_);
      } catch (const LineFault&) {
        ++needs.faults;
      }
    }
    input_.rewind();
    return needs;
  }

  void start() {
    const BatchNeeds needs = this->needs();
    if (needs.faults > 0) say(fmt::format("{} lines cannot be answered, and get an error line", needs.faults));
    if (needs.requests == 0) return;
    running_.keep_to(journal_.record().facts().found);
    share(needs);
    // Where not even one of the longest fits, its refusal names the nearest fit: an answer that ended where a budget
    // does, or an error for a prompt beyond it, would stand in the output for good.
    engine_ = &running_.start(needs.longest);
    journal_.record().settle(running_.found());
    const Plan& plan = engine_->plan();
    sequences_ = plan.batch;
    say(fmt::format("batch: up to {} requests at once, on {} positions; the longest may take {}", sequences_,
                    plan.context, needs.longest));
    say_of_endless(needs);
    SPILLWAY_CHECK(plan.positions >= needs.longest);
  }

  std::string why_not_recomputed() const { return running_.why_not_recomputed(!flags_.deterministic); }

  void say_of_endless(const BatchNeeds& needs) const {
    if (needs.endless == 0) return;
    if (!engine_->recomputes(!flags_.deterministic)) {
      if (static_cast<uint64_t>(sequences_) >= needs.requests || flags_.most_sequences > 0) return;
      say(fmt::format(
          "{} requests say no max_tokens: room for {} positions is kept for each of them while it runs, for "
          "with {} it cannot be given up and computed again; -n bounds them, and lets more run at once",
          needs.endless, needs.longest, why_not_recomputed()));
    } else if (engine_->plan().context < int64_t{sequences_} * needs.longest) {
      say(fmt::format(
          "{} requests say no max_tokens: each gets room as it grows; where there is none the newest of them "
          "waits, and is computed again; -n bounds them",
          needs.endless));
    }
  }

  // As many at once as was asked for, or half as many until they fit; or as many as are fastest, and as there are.
  void share(const BatchNeeds& needs) {
    const int all = static_cast<int>(std::min<uint64_t>(needs.requests, BatchWishes::kMostSequences));
    const int asked =
        static_cast<int>(std::min<uint64_t>(needs.requests, static_cast<uint64_t>(flags_.most_sequences)));
    if (asked == 0 && running_.share(needs.wishes(0))) {
      if (running_.sequences() > all) running_.share(needs.wishes(all));
      return;
    }
    for (int sequences = std::max(asked, 1); sequences > 0; sequences /= 2) {
      if (running_.share(needs.wishes(sequences))) return;
    }
  }

  // Asked while something is to be answered; errors are written on the way.
  std::optional<BatchRequest> next(RequestReader& reader, Prompts& making) {
    for (RequestReader::Item item; reader.next(item);) {
      try {
        if (item.fault) throw *item.fault;
        BatchRequest request = making.request(item.line, item.request);
        const RequestLine& line = item.request;
        heads_[item.line] = {.line = item.line, .custom_id = line.custom_id, .model = line.model, .chat = line.chat};
        return request;
      } catch (const LineFault& fault) {
        append(item.line, ResultLines::fault(survey_.hash, item.line, fault), true);
      }
      stop_if_interrupted();
    }
    return std::nullopt;
  }

  void take(const BatchAnswer& answer) {
    const auto head = heads_.find(answer.key);
    SPILLWAY_CHECK(head != heads_.end());
    if (answer.error.empty()) {
      append(answer.key, results_.answer(head->second, answer, std::time(nullptr)), false);
    } else {
      append(answer.key, ResultLines::fault(survey_.hash, answer.key, fault_of(answer, head->second.custom_id)), true);
    }
    heads_.erase(head);
  }

  void append(uint64_t line, const std::string& text, bool failed) {
    journal_.append(line, text, failed);
    if (showing_) showing_->update(journal_.answered());
  }

  BatchReport answer_all() {
    RequestReader reader(input_, journal_, flags_.shard);
    Prompts making = prompts(limit_);
    read_ = true;
    showing_ = progress("batch");
    BatchReport report;
    if (engine_ == nullptr) {  // nothing but errors
      SPILLWAY_CHECK(!next(reader, making));
    } else {
      BatchHooks hooks;
      hooks.next = [&] { return next(reader, making); };
      hooks.on_answer = [&](const BatchAnswer& answer) { take(answer); };
      hooks.on_progress = [&](const BatchProgress& now) {
        journal_.tick();
        const double tokens = static_cast<double>(now.tokens_in + now.tokens_out);
        if (now.seconds > 0) showing_->note(fmt::format("{:.0f} tokens/s", tokens / now.seconds));
        showing_->update(journal_.answered());
      };
      hooks.interrupted = interrupted;
      if (flags_.run.stats || flags_.run.json) {
        hooks.expected_s = [&](const PassLoad& load) { return running_.expected_seconds(load); };
      }
      report = run_batch(*engine_, running_.tokenizer(),
                         {.most_sequences = sequences_,
                          .most_positions = limit_,
                          .threads = flags_.run.options.threads,
                          .deterministic = flags_.deterministic},
                         hooks);
    }
    showing_->finish();
    showing_.reset();
    return report;
  }

  // Answers belong to the input that the record names.
  void check_input() {
    if (!read_) return;
    input_.check_unchanged();
    if (input_.so_far() == survey_) return;
    throw Error(ErrorKind::usage, fmt::format("-i {}: it changed while it was read; {} is not what it says it is",
                                              flags_.input, flags_.output));
  }

  int finish(const BatchReport& report) {
    counts_.answered = journal_.answered();
    counts_.errors = journal_.failed();
    say(batch_line(counts_, report));
    if (engine_ != nullptr) {
      running_.report_layers();
      if (flags_.run.stats) say(batch_stats_text(report, engine_->plan(), running_.metrics(), running_.link_peaks()));
    } else if (flags_.run.stats) {
      say("nothing was left to compute: there is no plan, and no pass");
    }
    if (flags_.run.json) {
      nlohmann::json json = batch_json(counts_, report, engine_ != nullptr ? running_.metrics() : Metrics{});
      json["plan"] = engine_ != nullptr ? plan_json(engine_->plan()) : nlohmann::json();
      put(json.dump() + "\n");
      flush_output();
    }
    if (report.interrupted) say("interrupted: the same command goes on from here");
    return report.interrupted ? kInterruptedCode : 0;
  }

  const BatchFlags& flags_;
  LineFile input_;
  const Survey survey_;
  Running running_;
  const std::string fingerprint_;
  Journal journal_;
  const ResultLines results_;
  BatchCounts counts_;
  int limit_ = 0;  // positions of one request
  int sequences_ = 1;
  bool read_ = false;  // the input, to its end
  Engine* engine_ = nullptr;
  std::unordered_map<uint64_t, RequestHead> heads_;  // of requests under way
  std::unique_ptr<Progress> showing_;
};

}  // namespace

int run_batch_job(const BatchFlags& flags) {
  for (const auto& [flag, path] : {std::pair("-i", &flags.input), std::pair("-o", &flags.output)}) {
    if (path->empty()) throw Error(ErrorKind::usage, fmt::format("{}: a file is wanted", flag));
  }
  if (!flags.run.plan.empty()) {
    throw Error(ErrorKind::usage, "--plan: a plan in a file is of one request at a time; a batch draws up its own");
  }
  BatchFlags own = flags;
  own.output = followed(flags.output);
  check_output(own.output);
  const NamedFile input{"-i", own.input}, model{"-m", own.run.model.value_or("")}, trace{"--trace", own.run.trace};
  const NamedFile output{"-o", own.output};
  for (const NamedFile& file : {input, model, trace}) refuse_written(file, output);
  for (const NamedFile& file : {input, model}) refuse_same(file, trace);
  return BatchJob(own).run();
}

}  // namespace spillway

// Running: what the commands that run a model share: open it, plan, say what runs where, reserve and load, stream the
// answer, report.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "apps/flags.h"
#include "apps/progress.h"
#include "runtime/batch_plan.h"
#include "runtime/calibrate.h"
#include "runtime/generate.h"
#include "runtime/metrics.h"
#include "runtime/session.h"

namespace spillway {

struct RunOptions {
  int logit_rows = 1;         // rows of logits wanted at once
  bool only_planned = false;  // nothing will run
  bool text = true;           // false: ids alone; the model need not bring a tokenizer
  bool for_later = false;     // the plan is kept for another run
  int sequences = 1;          // open at once
  bool only_check = false;    // where decode steps choose among the KV: KvSelection::only_check
};

class Running {
 public:
  explicit Running(const RunFlags& flags, const RunOptions& wishes = {});

  const Model& model() const { return model_; }
  const Tokenizer& tokenizer() const { return *model_.tokenizer; }
  double parameters() const;
  int threads() const { return device_.device->workers(); }
  std::string device_name() const { return device_.device->name(); }
  // As llama-bench calls them.
  const char* backend() const { return device_.device->kind() == DeviceKind::cuda ? "CUDA" : "CPU"; }
  bool emulated_device() const { return device_.device->emulated(); }
  const std::string& device_line() const { return device_.said; }

  // Refuses, before anything is loaded, a prompt or a sampling that generate() would refuse.
  void check(std::span<const int32_t> prompt, const SamplingOptions& sampling) const;
  // For `positions` (unless -c says otherwise). at_least: as many more as the budgets allow, at most the model's
  // context.
  Plan plan(int positions, bool at_least = false, bool quiet = false);
  // What plan() and start() do from now on: a batch's plan (runtime/batch_plan.h). False where none fits; then nothing
  // has changed.
  bool share(const BatchWishes& wishes);
  int sequences() const { return options_.sequences; }
  // What keeps tokens that were decoded from giving the same as a prompt (Engine::recomputes), as a person asked for
  // it; empty: nothing. Known before the engine is.
  std::string why_not_recomputed(bool any_kernel) const;
  // What no flag has said, and answers follow from all the same: of a rehearsal the skew, and the partial keys that
  // were chosen for it. Empty where nothing is rehearsed. After start().
  std::vector<std::pair<std::string, std::string>> found() const;
  // Before start(): partial keys as an earlier run has found them.
  void keep_to(const std::vector<std::pair<std::string, std::string>>& found);
  // That a pass of the started engine should take; 0 where the machine is not known.
  double expected_seconds(const PassLoad& load) const;
  // Lines on what larger chunks of the prompt would give, of which the user decides, not a budget; empty where that is
  // little, or the chunk was asked for.
  std::string chunk_advice(const Plan& plan) const;
  // As a file that --plan takes.
  void save(const Plan& plan, const std::string& path) const;
  // Plans, says what runs where, reserves and loads.
  Engine& start(int positions, bool at_least = false);

  // Makes a skew of the model at `path` (runtime/calibrate.h), with its own plan and engine.
  CalibrationReport calibrate(const CalibrationText& text, const CalibrateOptions& options, const std::string& path);

  std::unique_ptr<Progress> progress(const std::string& label, uint64_t total) const;
  GenerateHooks hooks();
  // generate() in a new sequence. An error of the model names its file.
  Generation answer(std::span<const int32_t> prompt, const GenerateOptions& options);
  LinkPeaks link_peaks() const;
  // What does not depend on what was run: the load, and the peaks.
  Metrics metrics() const;
  // How the work was handed to the device, where -v or --stats asks.
  void report_layers() const;
  // Ends the text of one answer of several, and reports as the flags ask.
  void end_answer(const Generation& generation);
  // What --stats says of it.
  std::string stats_text(const Generation& generation) const;
  // Ends the text and reports as the flags ask; returns the exit code.
  int finish(const Generation& generation);
  // What -v and --stats ask for, of a run that answered nobody. What was moved beside its phases (the load, warm-up)
  // is in the totals.
  void report_stats(const PhaseCost& prefill, const PhaseCost& decode) const;

 private:
  // Reads --plan. Throws Error(usage) where another flag asks for something else.
  void take_given_plan();
  // Of --plan, for so many positions.
  Plan given_plan(int positions) const;
  // The machine's limits, once, before the first plan: what can be refused without them is refused at once.
  void measure();
  CalibrateHooks calibrate_hooks();
  void prepare_rehearsal(int positions, bool at_least);
  void use_kept_skew();
  // Once for all plans of a run, unless it has grown much: what fitted one fits the next.
  void count_process();
  // Throws Error(fit).
  Plan planned(int context, int chunk) const;
  std::optional<Plan> if_it_fits(int context, int chunk) const;
  std::optional<Plan> if_weights_stay(int context) const;
  // Of a plan for `positions` or more whose weights stream: the longest context that would keep them on the device.
  void say_what_keeps_weights(const Plan& plan, int positions) const;
  // Of the sentence on what the budgets allow: how far smaller chunks of the prompt would go, up to `most`.
  std::string more_with_smaller_chunks(const Plan& plan, int most) const;
  void say_what_changes_nothing(const Plan& plan) const;
  void load(Plan plan);
  // For memory that went between plan and reservation: the budget that would fit now.
  [[noreturn]] void refuse_given_budget(const Error& error, uint64_t there) const;
  Metrics metrics(const Generation& generation) const;

  const RunFlags& flags_;
  Options options_;
  std::optional<PlanFile> given_;  // --plan
  Model model_;
  ChosenDevice device_;
  SessionLimits limits_;
  bool measured_ = false;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Progress> prefill_progress_;
  LinkBytes load_bytes_;
  double load_s_ = 0;
};

}  // namespace spillway

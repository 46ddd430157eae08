// spillway quality: what policies of KV cost in quality, and what they save, beside the full cache (ARCHITECTURE.md).
#include "runtime/quality.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <sstream>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/quality_report.h"
#include "apps/running.h"

namespace spillway {
namespace {

constexpr int kDefaultWindow = 4096;
constexpr int kDepths[] = {10, 50, 90};  // percent of a context before its passkey
constexpr int kAnswerTokens = 12;
constexpr const char* kDefaultPolicies[] = {
    "--kv-select oracle", "--kv-select rehearsal", "--kv-select infinigen", "--kv-select bounds",
    "--kv-keep window",   "--kv-keep heavy",       "--kv-type kivi4",       "--kv-select rehearsal --kv-type kivi4"};

struct QualityFlags {
  RunFlags run;
  TextFlags text;
  std::vector<std::string> policies;
  int windows = 3;
  int steps = 256;
  int greedy = 64;
  int passkeys = 1;
};

// The run's flags with a policy's: in an application of its own, which holds the options as long as they are read.
class Policy {
 public:
  Policy(const RunFlags& run, const std::string& flags) : flags_(flags), run_(run) {
    run_.add_policy(app_);
    run_.add_kv_budget(app_);
    // What the environment says of the KV is said of one policy, not of all.
    for (CLI::Option* option : app_.get_options()) option->envname("");
    std::istringstream stream(flags);
    std::vector<std::string> words{std::istream_iterator<std::string>(stream), {}};
    std::reverse(words.begin(), words.end());
    try {
      app_.parse(words);
      run_.options.context = 0;  // the windows say
      run_.resolve();
    } catch (const CLI::ParseError& error) {
      throw Error(ErrorKind::usage, fmt::format("--policies \"{}\": {}", flags, error.what()));
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("--policies \"{}\": {}", flags, error.what()));
    }
  }
  const std::string& flags() const { return flags_; }
  const RunFlags& run() const { return run_; }

 private:
  std::string flags_;
  CLI::App app_;
  RunFlags run_;
};

// A context with a key in it, a question, and the answer.
struct Passkey {
  std::vector<int32_t> prompt;
  int prefill = 0;  // tokens before the question
  std::string key;
};

Passkey hide(const Tokenizer& tokenizer, std::span<const int32_t> text, int tokens, int depth, uint64_t seed) {
  Passkey passkey;
  passkey.key = std::to_string(10000 + std::mt19937_64(seed)() % 90000);
  const auto encode = [&](const std::string& words) { return tokenizer.encode(words, false); };
  const auto note = encode(fmt::format("\n\nThe pass key is {0}. Remember it. {0} is the pass key.\n\n", passkey.key));
  const auto question = encode("\n\nWhat is the pass key? The pass key is");
  const int filler = tokens - static_cast<int>(note.size() + question.size()) - kAnswerTokens;
  const int before = filler * depth / 100;
  auto& prompt = passkey.prompt;
  prompt.assign(text.begin(), text.begin() + before);
  prompt.insert(prompt.end(), note.begin(), note.end());
  prompt.insert(prompt.end(), text.begin() + before, text.begin() + filler);
  passkey.prefill = static_cast<int>(prompt.size());
  prompt.insert(prompt.end(), question.begin(), question.end());
  return passkey;
}

// A window, and a fork of it.
constexpr RunOptions kWishes{.sequences = 2, .only_check = true};

class Quality {
 public:
  explicit Quality(const QualityFlags& flags) : flags_(flags), greedy_(flags.greedy) {
    window_ = flags.run.options.context > 0 ? flags.run.options.context : kDefaultWindow;
    if (flags.steps >= window_) {
      throw Error(ErrorKind::usage, fmt::format("--steps {}: a window has {} tokens (-c)", flags.steps, window_));
    }
    if (!flags.run.given("--greedy")) greedy_ = std::min(greedy_, flags.steps);
    if (greedy_ > flags.steps) {
      throw Error(ErrorKind::usage,
                  fmt::format("--greedy {}: at most as many as --steps, {}", flags.greedy, flags.steps));
    }
    std::vector<std::string> policies = flags.policies;
    if (policies.empty()) policies.assign(std::begin(kDefaultPolicies), std::end(kDefaultPolicies));
    policies.insert(policies.begin(), "");
    for (const std::string& policy : policies) policies_.push_back(std::make_unique<Policy>(flags.run, policy));
  }

  int run() {
    text_ = flags_.text.read();
    report_.text =
        flags_.text.file.empty() ? "the text given" : std::filesystem::path(flags_.text.file).filename().string();
    report_.window = window_;
    report_.steps = flags_.steps;
    // What does not fit is refused before an hour has gone into the others.
    for (const auto& policy : policies_) check(*policy);
    try {
      for (const auto& policy : policies_) measure(*policy);
    } catch (...) {
      if (report_.policies.size() > 1) print();  // what was measured until then
      throw;
    }
    print();
    return 0;
  }

 private:
  void print() const {
    put(flags_.run.json ? quality_json(report_).dump() + "\n" : quality_text(report_));
    flush_output();
  }

  void check(const Policy& policy) const {
    try {
      Running(policy.run(), kWishes).plan(quality_context(window_, flags_.steps), false, true);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("--policies \"{}\": {}", policy.flags(), error.what()));
    }
  }

  // Each policy has an engine of its own: its plan is that of a run.
  void measure(const Policy& policy) {
    std::fprintf(stderr, "policy: %s\n", policy.flags().empty() ? "full, fp16" : policy.flags().c_str());
    Running running(policy.run(), kWishes);
    prepare(running);
    Engine& engine = running.start(quality_context(window_, flags_.steps));
    engine.set_only_check(false);
    PolicyQuality result;
    result.policy = policy.flags();
    result.plan = engine.plan();
    const bool reference = report_.policies.empty();
    const uint64_t all = static_cast<uint64_t>(windows_.size()) * (window_ + 2 * flags_.steps);
    for (size_t i = 0; i < windows_.size(); ++i) {
      const QualityWindow window{.tokens = windows_[i].tokens,
                                 .steps = flags_.steps,
                                 .next = windows_[i].next,
                                 .greedy = greedy_,
                                 .checks = engine.plan().selection.on()};
      auto progress = running.progress(fmt::format("window {} of {}", i + 1, windows_.size()), all / windows_.size());
      QualityHooks hooks;
      hooks.on_progress = [&](uint64_t done, uint64_t) {
        stop_if_interrupted();
        progress->update(done);
      };
      QualityTally tally;
      QualityCost cost = measure_window(engine, window, references_[i], reference ? nullptr : &tally, hooks);
      if (reference) tally = against_itself(references_[i], window);
      progress->finish();
      result.all += tally;
      result.windows.push_back(std::move(tally));
      result.decode += cost.decode;
      result.chosen += cost.chosen;
      result.kv_kept = std::max(result.kv_kept, cost.kv_kept);
      result.missed.sum += cost.missed.sum;
      result.missed.heads += cost.missed.heads;
    }
    if (flags_.passkeys > 0) ask(running, engine, result);
    report_.policies.push_back(std::move(result));
  }

  static QualityTally against_itself(const ReferenceRows& rows, const QualityWindow& window) {
    QualityTally tally;
    for (int step = 0; step < window.steps; ++step) tally.add(rows.row(step), rows.row(step), window.token_after(step));
    return tally;
  }

  // The windows, once the first policy has a tokenizer.
  void prepare(Running& running) {
    if (!ids_.empty()) return;
    report_.model = running.model().spec.name;
    ids_ = running.tokenizer().encode(text_, false);
    const int32_t bos = running.tokenizer().bos();
    const bool add_bos = bos >= 0 && !ids_.empty() && ids_.front() == bos;
    for (size_t begin = 0; begin + window_ <= ids_.size(); begin += window_) {
      if (static_cast<int>(windows_.size()) == flags_.windows) break;
      Window window{.tokens = {ids_.begin() + begin, ids_.begin() + begin + window_},
                    .next = begin + window_ < ids_.size() ? ids_[begin + window_] : -1};
      if (add_bos) window.tokens.front() = bos;
      windows_.push_back(std::move(window));
    }
    if (windows_.empty()) {
      throw Error(ErrorKind::usage,
                  fmt::format("the text has {} tokens, less than one window of {} (-c)", ids_.size(), window_));
    }
    references_.resize(windows_.size());
  }

  void ask(Running& running, Engine& engine, PolicyQuality& result) {
    auto progress = running.progress("passkeys", std::size(kDepths) * flags_.passkeys * static_cast<uint64_t>(window_));
    uint64_t done = 0;
    QualityHooks hooks;
    hooks.on_progress = [&](uint64_t tokens, uint64_t) {
      stop_if_interrupted();
      progress->update(done + tokens);
    };
    for (const int depth : kDepths) {
      PasskeyScore score{.depth = depth};
      for (int i = 0; i < flags_.passkeys; ++i, ++score.asked, done += window_) {
        const uint64_t seed = static_cast<uint64_t>(1000 * depth + i);
        const Passkey passkey = hide(running.tokenizer(), ids_, window_, depth, seed);
        const auto answer = continue_greedily(engine, passkey.prompt, passkey.prefill, kAnswerTokens, hooks);
        score.answered += running.tokenizer().decode(answer).find(passkey.key) != std::string::npos ? 1 : 0;
      }
      result.passkeys.push_back(score);
    }
    progress->finish();
  }

  struct Window {
    std::vector<int32_t> tokens;
    int32_t next = -1;
  };

  const QualityFlags& flags_;
  int greedy_;
  int window_ = 0;
  std::vector<std::unique_ptr<Policy>> policies_;
  std::string text_;
  std::vector<int32_t> ids_;
  std::vector<Window> windows_;
  std::vector<ReferenceRows> references_;  // of each window
  QualityReport report_;
};

int run_quality(const QualityFlags& flags) { return Quality(flags).run(); }

}  // namespace

Command add_quality(CLI::App& app) {
  auto flags = std::make_shared<QualityFlags>();
  CLI::App* command = app.add_subcommand(
      "quality", "What policies of KV cost in quality beside the full cache, and what they move, by decode steps");
  flags->text.add(*command, "The text to measure on: none that the model was calibrated on");
  add_option(
      *command, "--policies", flags->policies,
      "Policies, each in quotes, by their flags: \"--kv-select rehearsal --select-budget 5%\" \"--kv-type kivi4\"")
      ->allow_extra_args(false);
  add_option(*command, "--windows", flags->windows, "Windows of -c tokens (4096) of the text at most")
      ->check(within(1))
      ->capture_default_str();
  add_option(*command, "--steps", flags->steps, "Last tokens of each window, which decode steps compute")
      ->check(within(1))
      ->capture_default_str();
  add_option(*command, "--greedy", flags->greedy, "Tokens of a greedy continuation that are compared; 0: none")
      ->check(within(0))
      ->capture_default_str();
  add_option(*command, "--passkeys", flags->passkeys, "Keys hidden at each depth of a window and asked for; 0: none")
      ->check(within(0))
      ->capture_default_str();
  flags->run.add(*command, Runs::prompts);
  return [flags] { return run_quality(*flags); };
}

}  // namespace spillway

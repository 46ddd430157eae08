// spillway score: negative log-likelihood and perplexity of a text or of given tokens.
#include "runtime/score.h"

#include <fmt/format.h>

#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/running.h"
#include "runtime/npy.h"

namespace spillway {
namespace {

constexpr int kDefaultWindow = 512;  // llama-perplexity's

struct ScoreFlags {
  RunFlags run;
  TextFlags text;
  std::optional<std::string> tokens;
  int prefill = 0;
  int last = 0;
  int chunks = -1;
  bool logprobs = false;
  std::string logits;
};

// "1,2,3" or "@FILE": ids between commas or white space.
std::vector<int32_t> parse_tokens(const std::string& flag, int vocab) {
  const std::string text = flag.starts_with("@") ? read_text_file("--tokens", flag.substr(1)) : flag;
  const auto refuse = [&](const char* what, size_t at) {
    throw Error(ErrorKind::usage,
                fmt::format("--tokens: {} at character {} (ids of this model: 0 to {})", what, at, vocab - 1));
  };
  std::vector<int32_t> ids;
  bool due = false;  // after a comma
  for (size_t at = 0; at < text.size();) {
    if (std::isspace(static_cast<unsigned char>(text[at]))) {
      ++at;
    } else if (text[at] == ',') {
      if (due || ids.empty()) refuse("no id before the comma", at);
      due = true;
      ++at;
    } else {
      int32_t id = 0;
      const auto [end, failure] = std::from_chars(text.data() + at, text.data() + text.size(), id);
      if (failure != std::errc() || id < 0 || id >= vocab) refuse("not a token id", at);
      ids.push_back(id);
      at = end - text.data();
      due = false;
    }
  }
  return ids;
}

// Windows as llama-perplexity cuts them: `size` tokens each, the second half scored, the rest of the text left out;
// where the model asks for it, the first token of each window is the beginning-of-sequence token.
struct Windows {
  std::vector<std::vector<int32_t>> tokens;
  int first_scored = 1;
};

Windows cut_windows(const std::vector<int32_t>& text, int size, int most, int32_t bos, bool add_bos) {
  Windows windows{.tokens = {}, .first_scored = size / 2 + 1};
  for (size_t begin = 0; begin + size <= text.size(); begin += size) {
    if (most >= 0 && static_cast<int>(windows.tokens.size()) == most) break;
    std::vector<int32_t> window(text.begin() + begin, text.begin() + begin + size);
    if (add_bos) window.front() = bos;
    windows.tokens.push_back(std::move(window));
  }
  return windows;
}

class Scorer {
 public:
  Scorer(const ScoreFlags& flags, Running& running) : flags_(flags), running_(running) {}

  int run() {
    const Windows windows = prepare();
    Engine& engine = running_.start(static_cast<int>(windows.tokens.front().size()));
    if (!flags_.logits.empty()) npy_.emplace(flags_.logits, running_.model().spec.shape.vocab);
    size_t total = 0, before = 0;
    for (const auto& window : windows.tokens) total += window.size();
    auto progress = running_.progress("score", total);
    for (const auto& window : windows.tokens) {
      score(engine, window, windows.first_scored, [&](uint64_t done, uint64_t) {
        stop_if_interrupted();
        progress->update(before + done);
      });
      before += window.size();
    }
    progress->finish();
    if (npy_) npy_->finish();
    print();
    return 0;
  }

 private:
  Windows prepare() {
    const int context = flags_.run.options.context;
    if (flags_.tokens) {
      if (flags_.text.given())
        throw Error(ErrorKind::usage, "--tokens takes the place of a text: no -p and no -f beside it");
      Windows windows{.tokens = {parse_tokens(*flags_.tokens, running_.model().spec.shape.vocab)}, .first_scored = 1};
      const int count = static_cast<int>(windows.tokens.front().size());
      if (count < 2) throw Error(ErrorKind::usage, "--tokens: at least two are needed, the first is not scored");
      if (context > 0 && count > context)
        throw Error(ErrorKind::usage, fmt::format("--tokens: {} ids, but -c is {}", count, context));
      check_prefill(count);
      return windows;
    }
    const int size = context > 0 ? context : kDefaultWindow;
    check_prefill(size);
    if (size < 4) throw Error(ErrorKind::usage, "-c: a window of at least 4 tokens is needed");
    const std::vector<int32_t> text = running_.tokenizer().encode(flags_.text.read(), false);
    const int32_t bos = running_.tokenizer().bos();
    const bool add_bos = bos >= 0 && !text.empty() && text.front() == bos;
    Windows windows = cut_windows(text, size, flags_.chunks, bos, add_bos);
    if (windows.tokens.empty()) {
      throw Error(ErrorKind::usage,
                  fmt::format("the text has {} tokens, less than one window of {} (-c)", text.size(), size));
    }
    return windows;
  }

  void check_prefill(int tokens) const {
    if (flags_.prefill > tokens) {
      throw Error(ErrorKind::usage, fmt::format("--prefill {}: a window has {} tokens", flags_.prefill, tokens));
    }
  }

  void score(Engine& engine, const std::vector<int32_t>& tokens, int first_scored, const OnProgress& on_progress) {
    const int total = static_cast<int>(tokens.size());
    const size_t base = logprobs_.size();
    logprobs_.resize(base + tokens.size(), std::numeric_limits<double>::quiet_NaN());
    int rows = 0;
    if (!flags_.logits.empty()) rows = flags_.last > 0 ? std::min(flags_.last, total) : total;
    const ScoreWindow window{
        .tokens = tokens, .first_scored = first_scored, .logit_rows = rows, .prefill = flags_.prefill};
    ScoreHooks hooks;
    hooks.on_progress = on_progress;
    hooks.on_row = [&](int, std::span<const float> logits) { npy_->append(logits); };
    hooks.on_scored = [&](int index, double logprob) {
      if (!std::isfinite(logprob)) {
        throw Error(ErrorKind::model,
                    fmt::format("{}: the log-probability of token {} is {}: the model's weights give no answer",
                                running_.model().checkpoint.path(), index, logprob));
      }
      nll_ -= logprob;
      ++scored_;
      logprobs_[base + index] = logprob;
    };
    const ScoreCost cost = score_window(engine, window, hooks);
    prefill_ += cost.prefill;
    decode_ += cost.decode;
  }

  void print() {
    const double ppl = std::exp(nll_ / static_cast<double>(scored_));
    if (!flags_.run.json) {
      put(fmt::format("tokens scored: {}\nnll: {:.6f}\nperplexity: {:.4f}\n", scored_, nll_, ppl));
      if (flags_.logprobs) {
        for (double logprob : logprobs_) put(fmt::format("{:.6f}\n", logprob));
      }
      flush_output();
      return running_.report_stats(prefill_, decode_);
    }
    nlohmann::json out{{"tokens", scored_}, {"nll", nll_}, {"ppl", ppl}};
    if (flags_.logprobs) {
      auto& list = out["logprobs"] = nlohmann::json::array();
      for (double logprob : logprobs_) list.push_back(std::isnan(logprob) ? nlohmann::json() : nlohmann::json(logprob));
    }
    put(out.dump() + "\n");
    flush_output();
    running_.report_stats(prefill_, decode_);
  }

  const ScoreFlags& flags_;
  Running& running_;
  std::optional<NpyWriter> npy_;
  std::vector<double> logprobs_;
  PhaseCost prefill_, decode_;
  double nll_ = 0;
  size_t scored_ = 0;
};

int run_score(const ScoreFlags& flags) {
  if (flags.last > 0 && flags.logits.empty())
    throw Error(ErrorKind::usage, "--last keeps rows of --logits, which is not given");
  Running running(flags.run, RunOptions{.logit_rows = 512, .text = !flags.tokens});
  return Scorer(flags, running).run();
}

}  // namespace

Command add_score(CLI::App& app) {
  auto flags = std::make_shared<ScoreFlags>();
  CLI::App* command =
      app.add_subcommand("score", "Negative log-likelihood and perplexity of a text, in windows of -c tokens");
  flags->text.add(*command, "The text to score");
  add_option(*command, "--tokens", flags->tokens, "Score these ids in one window instead: 1,2,3 or @FILE")
      ->type_name("IDS|@FILE");
  add_option(*command, "--chunks", flags->chunks, "Score the first so many windows (default: all)")->check(within(1));
  add_option(*command, "--prefill", flags->prefill,
             "So many first tokens by prefill, each later one by a decode step; 0: all by prefill")
      ->check(within(0));
  add_flag(*command, "--logprobs", flags->logprobs, "Each token's log-probability too");
  add_option(*command, "--logits", flags->logits, "Write the logits to this .npy file (float32, row i after token i)")
      ->type_name("FILE");
  add_option(*command, "--last", flags->last, "Only the last so many rows of logits of each window")->check(within(1));
  flags->run.add(*command);
  return [flags] { return run_score(*flags); };
}

}  // namespace spillway

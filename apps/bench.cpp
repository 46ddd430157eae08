// spillway bench: prompt and generation speed in llama-bench's table, with bytes moved for each token beside it.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/running.h"
#include "runtime/batch_plan.h"
#include "runtime/metrics.h"

namespace spillway {
namespace {

struct BenchFlags {
  RunFlags run;
  std::vector<int> prompts{512};
  std::vector<int> generations{128};
  std::vector<int> depths{0};
  int depth_window = 0;
  int parallel = 1;  // sequences
  int repetitions = 5;
  bool no_warmup = false;
  bool go_on = false;
  std::string text;  // a file
  std::string output = "md";
};

struct Row {
  int prompt = 0, generation = 0, depth = 0;  // of each sequence
  int parallel = 1;
  std::vector<double> seconds;
  LinkBytes bytes;               // of all repetitions
  ChosenCounts chosen;           // so
  double disk_busy_seconds = 0;  // at least one disk request was in flight, of all repetitions

  int tokens() const { return (prompt + generation) * parallel; }
  std::string test() const {
    std::string name = prompt > 0 ? fmt::format("pp{}", prompt) : fmt::format("tg{}", generation);
    if (parallel > 1) name += fmt::format(" x{}", parallel);
    return depth > 0 ? fmt::format("{} @ d{}", name, depth) : name;
  }
  std::vector<double> speeds() const {
    std::vector<double> speeds;
    for (double s : seconds) speeds.push_back(tokens() / s);
    return speeds;
  }
  double per_token(uint64_t count) const {
    return static_cast<double>(count) / (static_cast<double>(tokens()) * static_cast<double>(seconds.size()));
  }
  double bytes_per_token(Link link) const { return per_token(bytes.of(link)); }
};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return sum / values.size();
}

double deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double m = mean(values);
  double sum = 0;
  for (double v : values) sum += (v - m) * (v - m);
  return std::sqrt(sum / (values.size() - 1));
}

// The positions that the largest of the tests needs. Throws Error(usage) where there is none, or -c holds fewer.
int positions_of(const BenchFlags& flags) {
  const auto most = [](const std::vector<int>& values) {
    return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  };
  const int prompt = most(flags.prompts), generation = most(flags.generations), depth = most(flags.depths);
  if (prompt == 0 && generation == 0) throw Error(ErrorKind::usage, "nothing to measure: -p and -n are both 0");
  const int64_t wanted = depth + int64_t{std::max(prompt, generation)} * (flags.go_on ? flags.repetitions : 1);
  const int given = flags.run.options.context;
  const auto held = static_cast<int64_t>(align_up(given, kPageTokens));
  if (given > 0 && wanted > held) {
    const Row row{.prompt = prompt >= generation ? prompt : 0,
                  .generation = prompt >= generation ? 0 : generation,
                  .depth = depth,
                  .parallel = 1,
                  .seconds = {},
                  .bytes = {}};
    throw Error(ErrorKind::usage,
                fmt::format("the test {} takes {} positions, but the context holds {} (-c)", row.test(), wanted, held));
  }
  return static_cast<int>(std::min<int64_t>(wanted, INT32_MAX));  // more is refused by name
}

class Bench {
 public:
  Bench(const BenchFlags& flags, Running& running) : flags_(flags), running_(running) {}

  int run(int positions) {
    if (!flags_.text.empty()) read_text(positions);
    engine_ = &running_.start(positions);
    if (flags_.output == "md") header();
    for (int depth : flags_.depths) {
      for (int prompt : flags_.prompts) measure({.prompt = prompt, .depth = depth, .parallel = flags_.parallel});
      for (int generation : flags_.generations)
        measure({.generation = generation, .depth = depth, .parallel = flags_.parallel});
    }
    if (flags_.output != "md") put(rows_.dump(2) + "\n");
    flush_output();
    running_.report_stats(prefill_, decode_);
    return 0;
  }

 private:
  void read_text(int positions) {
    text_ = running_.tokenizer().encode(read_text_file("--text", flags_.text), true);
    if (text_.empty()) throw Error(ErrorKind::usage, fmt::format("--text {}: it has no tokens", flags_.text));
    const size_t once = text_.size();
    if (once >= static_cast<size_t>(positions)) return;
    std::fprintf(stderr, "--text %s: its %zu tokens are repeated, for the tests take %d\n", flags_.text.c_str(), once,
                 positions);
  }

  // So many of a test, behind `depth` others; of each sequence from another place of the text.
  std::vector<int32_t> tokens_of(int number, int count, int depth) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    const size_t first = text_.size() * static_cast<size_t>(number) / static_cast<size_t>(flags_.parallel);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] = text_.empty() ? static_cast<int32_t>(random_() % running_.model().spec.shape.vocab)
                                : text_[(first + static_cast<size_t>(depth) + i) % text_.size()];
    }
    return tokens;
  }

  std::vector<SequenceId> open(const Row& row) {
    std::vector<SequenceId> sequences;
    for (int i = 0; i < row.parallel; ++i) {
      sequences.push_back(engine_->open_sequence());
      if (row.depth == 0) continue;
      engine_->set_prompt_window(flags_.depth_window);
      read(sequences.back(), tokens_of(i, row.depth, 0), 0, row.generation > 0 && row.parallel == 1);
      engine_->set_prompt_window(0);
    }
    return sequences;
  }

  void close(std::vector<SequenceId>& sequences) {
    for (const SequenceId sequence : sequences) engine_->close_sequence(sequence);
    sequences.clear();
  }

  void read(SequenceId sequence, std::span<const int32_t> prompt, int rows, bool decode_follows) {
    engine_->prefill(
        sequence, prompt, rows, decode_follows, [](int, std::span<const float>) {},
        [](uint64_t, uint64_t) { stop_if_interrupted(); });
  }

  // One run of a test, in sequences of so many tokens each; its seconds.
  double once(const Row& row, const std::vector<SequenceId>& sequences, int depth) {
    std::vector<std::vector<int32_t>> tokens;
    for (int i = 0; i < row.parallel; ++i) tokens.push_back(tokens_of(i, row.prompt + row.generation, depth));
    const LinkBytes before = LinkBytes::of(engine_->traffic());
    const WaitSeconds waited_before = WaitSeconds::of(engine_->waits());
    const ChosenCounts chosen_before = engine_->chosen_counts();
    const double busy_before = engine_->disk_stats().seconds_busy;
    const auto begin = std::chrono::steady_clock::now();
    for (size_t i = 0; i < sequences.size() && row.prompt > 0; ++i) read(sequences[i], tokens[i], 1, false);
    std::vector<int32_t> ids(sequences.size());
    for (int step = 0; step < row.generation; ++step) {
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = tokens[i][static_cast<size_t>(step)];
      decode(sequences, ids, step + 1 < row.generation, depth + step + 1);
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    moved_ = LinkBytes::of(engine_->traffic()).since(before);
    waits_ = WaitSeconds::of(engine_->waits()).since(waited_before);
    chosen_ = engine_->chosen_counts().since(chosen_before);
    disk_busy_ = engine_->disk_stats().seconds_busy - busy_before;
    return seconds;
  }

  // A token of every sequence, the last of so many positions: in one pass, or, where steps choose among their KV and
  // there is no room for the choices of all, in turns.
  void decode(const std::vector<SequenceId>& sequences, std::span<const int32_t> tokens, bool another, int positions) {
    stop_if_interrupted();
    if (sequences.size() == 1) {
      engine_->decode(sequences[0], tokens[0], another);
      return;
    }
    std::vector<PassPart> parts;
    for (size_t i = 0; i < sequences.size(); ++i) {
      parts.push_back({.sequence = sequences[i], .tokens = tokens.subspan(i, 1), .decode = true, .logit_rows = 1});
    }
    const size_t most = engine_->decodes_apart(positions) ? static_cast<size_t>(engine_->most_apart()) : parts.size();
    for (size_t first = 0, count = 0; first < parts.size(); first += count) {
      count = std::min(most, parts.size() - first);
      const bool more = another || first + count < parts.size();
      const size_t then = (first + count) % parts.size();
      const auto next = std::span(sequences).subspan(then, more ? std::min(most, parts.size() - then) : 0);
      engine_->step({.parts = std::span(parts).subspan(first, count),
                     .any_kernel = true,
                     .next = {.logit_rows = more ? static_cast<int>(next.size()) : NextPass::kNone,
                              .decodes = true,
                              .sequences = next}},
                    [](std::span<const Engine::PartRow>) {});
    }
  }

  void measure(Row row) {
    if (row.tokens() == 0) return;
    std::vector<SequenceId> sequences;
    if (!flags_.no_warmup) {
      const Row few{
          .prompt = std::min(row.prompt, 64), .generation = std::min(row.generation, 1), .parallel = row.parallel};
      sequences = open(few);
      once(few, sequences, 0);
      close(sequences);
    }
    for (int i = 0; i < flags_.repetitions; ++i) {
      if (sequences.empty()) sequences = open(row);
      row.seconds.push_back(once(row, sequences, row.depth + (flags_.go_on ? i * (row.prompt + row.generation) : 0)));
      if (!flags_.go_on) close(sequences);
      row.bytes += moved_;
      row.chosen += chosen_;
      (row.prompt > 0 ? prefill_ : decode_) +=
          {.tokens = row.tokens(), .seconds = row.seconds.back(), .bytes = moved_, .waits = waits_};
      row.disk_busy_seconds += disk_busy_;
    }
    close(sequences);
    if (flags_.output == "md") print(row);
    rows_.push_back(json(row));
  }

  void header() const {
    put(fmt::format("| {:<30} | {:>10} | {:>10} | {:<10} | {:>7} | {:>15} | {:>20} | {:<44} |\n", "model", "size",
                    "params", "backend", "threads", "test", "t/s", "moved a token (share of the link's peak)"));
    put(fmt::format("| {0:-<30} | {0:->9}: | {0:->9}: | {0:-<10} | {0:->6}: | {0:->14}: | {0:->19}: | {0:-<44} |\n",
                    ""));
  }

  std::string moved(const Row& row) const {
    std::string text;
    const LinkPeaks peaks = running_.link_peaks();
    for (int l = 0; l < kLinks; ++l) {
      const double bytes = row.bytes_per_token(static_cast<Link>(l));
      if (bytes == 0) continue;
      const double rate = bytes * mean(row.speeds());
      if (!text.empty()) text += ", ";
      text += fmt::format("{} {:.2f} MB", kLinkNames[l], bytes / 1e6);
      if (peaks.bytes_per_second[l] > 0)
        text +=
            fmt::format(" ({:.0f}%{})", 100 * rate / peaks.bytes_per_second[l], peaks.emulated[l] ? ", emulated" : "");
    }
    return text.empty() ? "nothing" : text;
  }

  void print(const Row& row) const {
    const Model& model = running_.model();
    put(fmt::format(
        "| {:<30} | {:>6.2f} MiB | {:>8.2f} M | {:<10} | {:>7} | {:>15} | {:>10.2f} ± {:>7.2f} | {:<44} |\n",
        fmt::format("{} {}", model.spec.family, info(model.spec.layers.front().q.dtype).name),
        static_cast<double>(model.checkpoint.weight_bytes()) / 1048576.0, running_.parameters() / 1e6,
        running_.backend(), running_.threads(), row.test(), mean(row.speeds()), deviation(row.speeds()), moved(row)));
    flush_output();
  }

  nlohmann::json json(const Row& row) const {
    std::vector<int64_t> samples_ns;
    std::vector<double> ns;
    for (double s : row.seconds) {
      samples_ns.push_back(static_cast<int64_t>(s * 1e9));
      ns.push_back(s * 1e9);
    }
    nlohmann::json per_token = nlohmann::json::object();
    nlohmann::json by_cause = nlohmann::json::object();
    for (int l = 0; l < kLinks; ++l) {
      per_token[kLinkNames[l]] = row.bytes_per_token(static_cast<Link>(l));
      for (int c = 0; c < kCauses; ++c) {
        by_cause[kLinkNames[l]][kCauseNames[c]] =
            row.per_token(row.bytes.of(static_cast<Link>(l), static_cast<Cause>(c)));
      }
    }
    const Plan& plan = engine_->plan();
    const char* kv_type = info(plan.kv_layout.format.type()).name;
    return {{"model_filename", running_.model().checkpoint.path()},
            {"model_type", running_.model().spec.family},
            {"model_size", running_.model().checkpoint.weight_bytes()},
            {"model_n_params", static_cast<uint64_t>(running_.parameters())},
            {"cpu_info", running_.device_name()},
            {"backends", running_.backend()},
            {"n_batch", plan.chunk},
            {"n_ubatch", plan.chunk},
            {"n_threads", running_.threads()},
            {"type_k", kv_type},
            {"type_v", kv_type},
            {"test_time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
            {"n_prompt", row.prompt},
            {"n_gen", row.generation},
            {"n_depth", row.depth},
            {"n_parallel", row.parallel},
            {"depth_window", flags_.depth_window},
            {"avg_ns", static_cast<int64_t>(mean(ns))},
            {"stddev_ns", static_cast<int64_t>(deviation(ns))},
            {"avg_ts", mean(row.speeds())},
            {"stddev_ts", deviation(row.speeds())},
            {"samples_ns", samples_ns},
            {"samples_ts", row.speeds()},
            {"bytes_per_token", per_token},
            {"bytes_per_token_by_cause", by_cause},
            {"selection", chosen_json(row.chosen)},
            {"emulated_link", plan.emulated_link},
            {"emulated_device", running_.emulated_device()},
            {"disk", engine_->disk_report()},
            {"disk_busy_share", row.disk_busy_seconds / (mean(row.seconds) * row.seconds.size())}};
  }

  const BenchFlags& flags_;
  Running& running_;
  Engine* engine_ = nullptr;
  std::mt19937_64 random_{1};
  std::vector<int32_t> text_;  // where one was given
  LinkBytes moved_;
  WaitSeconds waits_;
  ChosenCounts chosen_;
  PhaseCost prefill_, decode_;  // of all that was measured
  double disk_busy_ = 0;
  nlohmann::json rows_ = nlohmann::json::array();
};

}  // namespace

Command add_bench(CLI::App& app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* command = app.add_subcommand("bench", "Measure prompt and generation speed, as llama-bench does");
  add_option(*command, "-p,--n-prompt", flags->prompts, "Prompt tokens (a list: 512,1024)")
      ->delimiter(',')
      ->check(within(0))
      ->capture_default_str();
  add_option(*command, "-n,--n-gen", flags->generations, "Generated tokens")
      ->delimiter(',')
      ->check(within(0))
      ->capture_default_str();
  add_option(*command, "-d,--n-depth", flags->depths, "Tokens that are in the context before")
      ->delimiter(',')
      ->check(within(0))
      ->capture_default_str();
  add_option(
      *command, "--depth-window", flags->depth_window,
      "These attend to so many tokens before them at most: a long context in little time, whose text means nothing "
      "(0: to all)")
      ->check(within(0))
      ->capture_default_str();
  add_option(*command, "--parallel,--np", flags->parallel,
             "So many sequences at once, each of these depths and tests; t/s over all (-np)")
      ->check(within(1, BatchWishes::kMostSequences))
      ->capture_default_str();
  add_option(*command, "-r,--repetitions", flags->repetitions, "Runs of each test")
      ->check(within(1))
      ->capture_default_str();
  add_flag(*command, "--go-on", flags->go_on,
           "Each run of a test begins where the one before has ended: what -d says is read once");
  add_flag(*command, "--no-warmup", flags->no_warmup, "Skip the run before each test");
  add_option(
      *command, "--text", flags->text,
      "Take the tokens from this file's text, not at random: what is chosen of the KV, or of experts, is then real")
      ->type_name("FILE");
  add_option(*command, "-o,--output", flags->output, "Form of the table")
      ->check(CLI::IsMember({"md", "json"}))
      ->capture_default_str();
  flags->run.add(*command);
  return [flags] {
    if (flags->run.json) flags->output = "json";
    const int positions = positions_of(*flags);
    if (flags->parallel > 1) flags->run.share(flags->parallel, positions);
    Running running(flags->run,
                    {.logit_rows = flags->parallel, .text = !flags->text.empty(), .sequences = flags->parallel});
    return Bench(*flags, running).run(positions);
  };
}

}  // namespace spillway

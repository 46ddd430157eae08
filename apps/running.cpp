#include "apps/running.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>

#include <fmt/format.h>

#include "apps/environment.h"
#include "apps/reports.h"
#include "kernels/trace.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C stops the answer after the token under way; a second one ends the program.
void on_interrupt(int) {
  if (interrupted != 0) std::_Exit(130);
  interrupted = 1;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

}  // namespace

Running::Running(const RunFlags& flags, const RunOptions& wishes)
    : flags_(flags), options_(flags.resolve()), model_(Model::open(options_.model_path)), device_(choose_device(options_)) {
  options_.logit_rows = wishes.logit_rows;
  const Machine machine = measure_session(model_, options_, *device_.device, cache_directory() + "/machine.json", [&](std::string_view line) {
    if (flags.verbosity > 0) say(std::string(line));
  });
  limits_ = limits_of(machine, model_, options_);
  if (!flags.trace.empty()) Trace::start(flags.trace);
  std::signal(SIGINT, on_interrupt);
}

Running::~Running() {
  engine_.reset();
  try {
    Trace::finish();
  } catch (const Error& error) {
    say(fmt::format("spillway: {}", error.what()));
  }
}

double Running::parameters() const {
  double sum = 0;
  for (const auto& [name, tensor] : model_.checkpoint.tensors) sum += static_cast<double>(tensor.rows) * tensor.cols;
  return sum;
}

Plan Running::plan(int positions, bool at_least) {
  const auto planned = [&](int context) {
    Options options = options_;
    options.context = context;
    return plan_session(model_, options, *device_.device, device_.device->ops(), limits_);
  };
  if (options_.context > 0) return planned(options_.context);
  if (!at_least) return planned(positions);
  // The largest context that fits, by halving the distance between what is needed and what the model was trained for.
  const int most = model_.spec.shape.context;
  try {
    return planned(std::max(most, positions));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::fit) throw;
  }
  int fits = std::max(positions, 1), refused = most;
  Plan best = planned(fits);
  while (refused - fits > kPageTokens) {
    const int middle = fits + (refused - fits) / 2;
    try {
      best = planned(middle);
      fits = middle;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::fit) throw;
      refused = middle;
    }
  }
  say(fmt::format("context: {} positions are what the budgets allow; the model knows {}", best.context, most));
  return best;
}

Engine& Running::start(int positions, bool at_least) {
  const double begin = now();
  Plan plan = this->plan(positions, at_least);
  say(device_.said);
  say(describe_placement(plan));
  if ((flags_.host_mem.size() + flags_.disk_mem.size()) > 0 && !plan.streams_weights() && !plan.spills_kv()) {
    say("everything fits the device: --host-mem and --disk-mem change nothing");
  }
  if (flags_.verbosity > 0) say(describe_plan(plan));
  const uint64_t total = plan.tier(Tier::device).weights + plan.tier(Tier::host).weights;
  Progress progress(ProgressOutput::standard_error(flags_.no_color), "load", total, ProgressUnit::bytes);
  engine_ = std::make_unique<Engine>(model_, options_, std::move(plan), *device_.device,
                                     [&](uint64_t done, uint64_t) { progress.update(done); });
  progress.finish();
  if (const std::string disk = engine_->disk_report(); !disk.empty()) say(disk);
  load_s_ = now() - begin;
  load_bytes_ = LinkBytes::of(engine_->traffic());
  return *engine_;
}

std::unique_ptr<Progress> Running::progress(const std::string& label, uint64_t total) const {
  return std::make_unique<Progress>(ProgressOutput::standard_error(flags_.no_color), label, total, ProgressUnit::items, "tokens");
}

GenerateHooks Running::hooks() {
  GenerateHooks hooks;
  hooks.on_prefill = [this](uint64_t done, uint64_t total) {
    if (!prefill_progress_) prefill_progress_ = progress("prefill", total);
    prefill_progress_->update(done);
    if (done == total) prefill_progress_.reset();
  };
  if (!flags_.json) {
    hooks.on_text = [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  hooks.interrupted = [] { return interrupted != 0; };
  return hooks;
}

LinkPeaks Running::link_peaks() const {
  LinkPeaks peaks;
  const bool emulated = engine_ && engine_->plan().emulated_link;
  const auto set = [&](Link link, double speed, bool is_emulated) {
    peaks.bytes_per_second[static_cast<size_t>(link)] = speed;
    peaks.emulated[static_cast<size_t>(link)] = is_emulated;
  };
  set(Link::disk_read, limits_.disk_read, false);
  set(Link::host_to_device, limits_.link, emulated);
  set(Link::device_to_host, limits_.link, emulated);
  return peaks;
}

Metrics Running::metrics(const Generation* generation) const {
  Metrics metrics;
  if (generation != nullptr) {
    metrics.timings = generation->timings;
    metrics.prompt_tokens = generation->prompt_tokens;
    metrics.decode_steps = generation->decode_steps;
    metrics.prefill = generation->prefill_bytes;
    metrics.decode = generation->decode_bytes;
  } else {
    metrics.prefill = LinkBytes::of(engine_->traffic()).since(load_bytes_);
  }
  metrics.timings.load_s = load_s_;
  metrics.load = load_bytes_;
  const Plan& plan = engine_->plan();
  for (int t = 0; t < kTiers; ++t) {
    metrics.peak[t] = engine_->peak(static_cast<Tier>(t));
    metrics.budget[t] = plan.tiers[t].budget;
  }
  metrics.process_peak = process_memory().peak;
  return metrics;
}

int Running::finish(const Generation& generation) {
  const Metrics result = metrics(&generation);
  if (flags_.json) {
    std::printf("%s\n", generation_json(generation, result, engine_->plan()).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::fputc('\n', stdout);
  }
  std::fflush(stdout);
  if (generation.context_full) {
    say(fmt::format("the context of {} positions is full (-c): finish_reason length", engine_->plan().context));
  }
  if (flags_.stats) say(metrics_text(result, link_peaks()));
  return generation.finish == FinishReason::interrupted ? 130 : 0;
}

void Running::report_stats(const Engine&) const {
  if (flags_.stats) say(metrics_text(metrics(nullptr), link_peaks()));
}

}  // namespace spillway

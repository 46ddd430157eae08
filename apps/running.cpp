#include "apps/running.h"

#include <chrono>
#include <csignal>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace spillway {
namespace {

volatile std::sig_atomic_t interrupted = 0;

// Ctrl-C stops the answer after the token under way; a second one ends the program.
void on_interrupt(int) {
  if (interrupted) std::_Exit(130);
  interrupted = 1;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

}  // namespace

Running::Running(const RunFlags& flags)
    : flags_(flags), options_(flags.resolve()), model_(Model::open(options_.model_path)), device_(choose_device(options_)) {
  std::signal(SIGINT, on_interrupt);
}

Running::~Running() = default;

Engine& Running::start(int positions) {
  const double begin = now();
  if (options_.context == 0) options_.context = positions;
  Plan plan = plan_session(model_, options_, *device_.device, device_.device->ops(), Limits{});
  say(device_.said);
  say(describe_placement(plan));
  if (flags_.verbosity > 0) say(describe_plan(plan));
  Progress progress(ProgressOutput::standard_error(flags_.no_color), "load", plan.tier(Tier::device).weights + plan.tier(Tier::host).weights,
                    ProgressUnit::bytes);
  engine_ = std::make_unique<Engine>(model_, options_, std::move(plan), *device_.device,
                                     [&](uint64_t done, uint64_t) { progress.update(done); });
  progress.finish();
  if (const std::string disk = engine_->disk_report(); !disk.empty()) say(disk);
  load_s_ = now() - begin;
  return *engine_;
}

GenerateHooks Running::hooks() {
  GenerateHooks hooks;
  if (!flags_.json) {
    hooks.on_text = [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  hooks.interrupted = [] { return interrupted != 0; };
  return hooks;
}

int Running::finish(const Generation& generation) {
  if (!flags_.json) std::fputc('\n', stdout);
  if (flags_.json) {
    nlohmann::json out{{"text", generation.text},
                       {"tokens", generation.tokens},
                       {"prompt_tokens", generation.prompt_tokens},
                       {"finish_reason", kFinishReasonNames[static_cast<int>(generation.finish)]}};
    std::fputs((out.dump() + "\n").c_str(), stdout);
  }
  return generation.finish == FinishReason::interrupted ? 130 : 0;
}

}  // namespace spillway

#include "apps/running.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "apps/environment.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "apps/reports.h"
#include "kernels/trace.h"
#include "runtime/describe_plan.h"
#include "runtime/kv_sizes.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

// Where no folder can be made, measuring itself says that nothing is kept.
std::string machine_cache() {
  const char* name = "/machine.json";
  try {
    return xdg_of_this_user().cache() + name;
  } catch (const Error&) {
    return cache_directory() + name;
  }
}

}  // namespace

Running::Running(const RunFlags& flags, const RunOptions& wishes)
    : flags_(flags),
      options_(flags.resolve()),
      given_(flags.plan.empty() ? std::nullopt : std::optional(PlanFile::read(flags.plan))),
      model_(Model::open(options_.model_path, wishes.text)) {
  for (const std::string& remark : model_.checkpoint.remarks) say(remark);
  if (given_) take_given_plan();
  device_ = choose_device(options_, model_.spec.shape);
  if (given_) given_->check(model_.checkpoint, *device_.device);
  for (const std::string& line : flags.resolve_budgets(options_, *device_.device)) say(line);
  device_.cpu = cpu_beside(options_, model_.spec.shape, *device_.device);
  options_.logit_rows = wishes.logit_rows;
  options_.sequences = wishes.sequences;
  options_.selection.only_check = wishes.only_check && options_.selection.on();
  options_.only_planned = wishes.only_planned;
  if (wishes.for_later) options_.process_room = kProcessVaries;
  catch_interrupts();
}

void Running::measure() {
  if (std::exchange(measured_, true)) return;
  // The first line is always said: measuring takes a moment.
  bool said = false;
  limits_ = measure_session(model_, options_, device_, machine_cache(), [&](std::string_view line) {
    stop_if_interrupted();
    if (flags_.verbosity > 0 || !std::exchange(said, true)) say(std::string(line));
  });
  stop_if_interrupted();
}

double Running::parameters() const {
  double sum = 0;
  for (const auto& [name, tensor] : model_.checkpoint.tensors) sum += static_cast<double>(tensor.rows) * tensor.cols;
  return sum;
}

void Running::check(std::span<const int32_t> prompt, const SamplingOptions& sampling) const {
  check_prompt(prompt, 0, options_.context > 0 ? static_cast<int>(align_up(options_.context, kPageTokens)) : INT32_MAX);
  Sampler(sampling, tokenizer().vocab());
}

// What a flag says beside the plan must be what the plan says too; a budget may be smaller, or larger.
void Running::take_given_plan() {
  const Options asked = options_;
  const PlanFile& plan = *given_;
  plan.decide(options_);
  const auto refuse = [&](const char* flag, const std::string& what) {
    throw Error(ErrorKind::usage, fmt::format("{}: the plan in {} {}", flag, plan.path, what));
  };
  const auto agree = [&](const char* name, const char* flag, bool same, const std::string& has) {
    if (flags_.given(name) && !same) refuse(flag, fmt::format("was made for {}", has));
  };
  const int layers = model_.spec.shape.layers;
  const auto on_device = [&](const std::optional<int>& count) { return std::min(count.value_or(layers), layers); };
  agree("--ub", "-ub", std::min(asked.chunk, plan.context) == plan.chunk, std::to_string(plan.chunk));
  agree("--lookahead", "--lookahead", asked.lookahead == options_.lookahead, std::to_string(options_.lookahead));
  agree("--ngl", "-ngl", !asked.device_layers || on_device(asked.device_layers) == on_device(options_.device_layers),
        std::to_string(on_device(options_.device_layers)));
  agree("--kv-type", "--kv-type", asked.kv_codec == plan.kv_codec, info(plan.kv_codec).name);
  if (asked.selection.on()) {
    if (asked.selection.unchecked() != plan.selection) {
      refuse(asked.selection.flag().c_str(),
             plan.selection.on() ? fmt::format("was made for {}, with other numbers", plan.selection.flag())
                                 : "reads all KV");
    }
  }
  agree("--kv-edge-layers", "--kv-edge-layers", asked.kv_edge_layers == plan.kv_edge_layers,
        std::to_string(plan.kv_edge_layers));
  agree("--link-gbps", "--link-gbps", asked.link_bytes_per_second == plan.link_bytes_per_second,
        fmt::format("{:g}", plan.link_bytes_per_second * 1e-9));
  if (flags_.kv_device_mem) refuse("--kv-device-mem", "says itself what the device holds of the KV");
  if (asked.context > plan.context) refuse("-c", fmt::format("has {} positions", plan.context));
  if (flags_.host_mem && !plan.host_bytes) refuse("--host-mem", "was made without one");
  if (flags_.disk_mem) options_.disk_bytes = asked.disk_bytes;
  if (options_.disk_bytes > 0 && options_.disk_directory.empty()) options_.disk_directory = xdg_of_this_user().cache();
}

Plan Running::given_plan(int positions) const {
  if (positions > given_->context) {
    throw Error(ErrorKind::fit, fmt::format("{} positions are needed, but the plan in {} has {}", positions,
                                            given_->path, given_->context));
  }
  Options options = options_;
  return plan_session(model_, options, device_, limits_, &*given_);
}

void Running::save(const Plan& plan, const std::string& path) const {
  // A run would make the skew first, and what it takes, or the rank that it bears, could then be another.
  const KvSelection& selection = options_.selection;
  const bool reaches = selection.rank > 0 || selection.selector == KvSelector::infinigen;
  if (selection.foretells() && (!model_.skew || model_.skew->context < (reaches ? 1 : plan.positions))) {
    throw Error(
        ErrorKind::usage,
        fmt::format("-o: a plan with {} follows from a skew of the model for its {} positions, and none is kept: "
                    "spillway calibrate -c {} makes it",
                    selection.flag(), plan.positions, plan.positions));
  }
  PlanFile::of(plan, {.options = options_,
                      .spec = model_.spec,
                      .checkpoint = model_.checkpoint,
                      .device = *device_.device,
                      .ops = device_.device->ops(),
                      .limits = limits_.device})
      .write(path, plan.expected);
}

void Running::count_process() { limits_.process = process_to_plan(limits_.process, process_memory().resident); }

double Running::expected_seconds(const PassLoad& load) const {
  const Plan& plan = engine_->plan();
  if (plan.before.empty()) return predict_pass(plan, model_.spec, limits_.device, load);
  const auto of = [&](const Plan& unit, const Limits& limits) {
    return predict_pass(unit, model_.spec.stretch(unit.first_layer, unit.last_layer, unit.head), limits, load);
  };
  const double before = of(plan.before.front(), limits_.cpu), rest = of(plan, limits_.device);
  return before > 0 && rest > 0 ? before + rest : 0;
}

// Of the flags that were given, those that this plan has no use for.
void Running::say_what_changes_nothing(const Plan& plan) const {
  if (packs(options_.kv_codec) && kv_saved(plan).packed_layers == 0) {
    say(fmt::format("--kv-type {} changes nothing: all {} layers are first or last ones (--kv-edge-layers {})",
                    info(options_.kv_codec).name, model_.spec.shape.layers, options_.kv_edge_layers));
  }
  if (options_.device_layers && *options_.device_layers < model_.spec.shape.layers && plan.before.empty()) {
    say("-ngl changes nothing: the CPU is the device, and computes all layers (--host-mem emulates a GPU's tiers)");
  }
  if (options_.selection.on() && !plan.selection.on()) {
    const bool windows = choosing_layers(options_.selection, model_.spec).empty();
    say(fmt::format("{} changes nothing: {}", options_.selection.flag(),
                    windows ? "no layer reads more than its window, or the first ones"
                            : fmt::format("of {} positions all are read", plan.context)));
  } else if (options_.selection.on() && !plan.spills_kv()) {
    say(fmt::format("all KV fits the device: {} saves no transfer, and reads less", options_.selection.flag()));
  }
  const bool resident = !plan.streams() && !plan.spills_kv() && plan.before.empty();
  std::vector<const char*> flags;
  if (flags_.host_mem && resident) flags.push_back("--host-mem");
  if (flags_.disk_mem && plan.tier(Tier::disk).kv == 0) flags.push_back("--disk-mem");
  if (options_.lookahead > 0 && resident) flags.push_back("--lookahead");
  if (flags.empty()) return;
  std::string list = flags.front();
  for (size_t i = 1; i < flags.size(); ++i) list += (i + 1 < flags.size() ? ", " : " and ") + std::string(flags[i]);
  say(fmt::format("{}: {} {} nothing", resident ? "everything fits the device" : "no KV has to go to disk", list,
                  flags.size() == 1 ? "changes" : "change"));
}

Engine& Running::start(int positions, bool at_least) {
  const double begin = now();
  if (!flags_.trace.empty()) Trace::start(flags_.trace);  // its memory is the process's when that is planned
  prepare_rehearsal(positions, at_least);
  Plan plan = this->plan(positions, at_least);
  say(device_.said);
  say(describe_placement(plan));
  say_what_changes_nothing(plan);
  const int wanted = options_.positions > 0 ? options_.positions : std::max(positions, options_.context);
  const int longest = std::min(wanted, plan.positions);
  if (const int known = model_.spec.shape.context; longest > known) {
    say(fmt::format("context: the model was trained for {} positions, and answers worse beyond them", known));
  }
  if (flags_.verbosity > 0) say(describe_plan(plan));
  const uint64_t needed = plan.tier(Tier::device).total();
  try {
    load(std::move(plan));
  } catch (const Error& error) {
    // Others use a GPU too. A budget that was asked for is kept to; one of our own is drawn up again, once.
    if (error.kind() != ErrorKind::fit || device_.device->host_addressable()) throw;
    const uint64_t there = device_.device->free_bytes() + device_.device->overhead_bytes();
    if (flags_.device_mem && there >= needed) throw;  // it was the host's memory
    if (flags_.device_mem) refuse_given_budget(error, there);
    say(fmt::format("{}: less is left than when it was planned; planning again", error.what()));
    plan = this->plan(positions, at_least);
    say(describe_placement(plan));
    load(std::move(plan));
  }
  for (const std::string& line : {device_.device->host_memory_report(), engine_->disk_report()}) {
    if (!line.empty()) say(line);
  }
  load_s_ = now() - begin;
  load_bytes_ = LinkBytes::of(engine_->traffic());
  return *engine_;
}

void Running::refuse_given_budget(const Error& error, uint64_t there) const {
  throw Error(ErrorKind::fit,
              fmt::format("does not fit any more: {}; less is left than when it was planned; nearest fit: --device-mem "
                          "{}MiB, or none, for a plan within what is free",
                          error.what(), there / kMiB));
}

void Running::load(Plan plan) {
  const uint64_t total = plan.tier(Tier::device).weights + plan.tier(Tier::host).weights;
  Progress progress(ProgressOutput::standard_error(flags_.no_color), "load", total, ProgressUnit::bytes);
  engine_ = std::make_unique<Engine>(model_, options_, std::move(plan),
                                     EngineDevices(*device_.device, device_.cpu.get()), [&](uint64_t done, uint64_t) {
                                       stop_if_interrupted();
                                       progress.update(done);
                                     });
  progress.finish();
}

CalibrateHooks Running::calibrate_hooks() {
  CalibrateHooks hooks;
  hooks.said = [](std::string_view line) { say(std::string(line)); };
  hooks.on_prefill = [this](uint64_t done, uint64_t total) {
    stop_if_interrupted();
    if (!prefill_progress_) prefill_progress_ = progress("calibrate", total);
    prefill_progress_->update(done);
    if (done == total) prefill_progress_.reset();
  };
  return hooks;
}

CalibrationReport Running::calibrate(const CalibrationText& text, const CalibrateOptions& options,
                                     const std::string& path) {
  measure();
  say(device_.said);
  return spillway::calibrate({model_, options_, device_, limits_, text}, options, path, calibrate_hooks());
}

std::unique_ptr<Progress> Running::progress(const std::string& label, uint64_t total) const {
  return std::make_unique<Progress>(ProgressOutput::standard_error(flags_.no_color), label, total, ProgressUnit::items,
                                    "tokens");
}

GenerateHooks Running::hooks() {
  GenerateHooks hooks;
  prefill_progress_.reset();  // of a prompt that was interrupted
  hooks.on_prefill = [this](uint64_t done, uint64_t total) {
    if (!prefill_progress_) prefill_progress_ = progress("prefill", total);
    prefill_progress_->update(done);
    if (done == total) prefill_progress_.reset();
  };
  if (!flags_.json) {
    hooks.on_text = [](std::string_view text) {
      put(text);
      flush_output();
    };
  }
  hooks.interrupted = interrupted;
  return hooks;
}

LinkPeaks Running::link_peaks() const {
  LinkPeaks peaks;
  const bool emulated = engine_ && engine_->plan().emulated_link;
  const auto set = [&](Link link, double speed, bool is_emulated) {
    peaks.bytes_per_second[static_cast<size_t>(link)] = speed;
    peaks.emulated[static_cast<size_t>(link)] = is_emulated;
  };
  set(Link::disk_read, limits_.device.disk_read, false);
  set(Link::host_to_device, limits_.device.link, emulated);
  set(Link::device_to_host, limits_.device.link, emulated);
  return peaks;
}

Generation Running::answer(std::span<const int32_t> prompt, const GenerateOptions& options) {
  try {
    return generate(*engine_, tokenizer(), engine_->open_sequence(), prompt, options, hooks());
  } catch (const Error& error) {  // the sampler's, which knows rows of logits alone
    if (error.kind() != ErrorKind::model) throw;
    throw Error(ErrorKind::model, fmt::format("{}: {}", model_.checkpoint.path(), error.what()));
  }
}

Metrics Running::metrics() const {
  Metrics metrics;
  metrics.timings.load_s = load_s_;
  metrics.load = load_bytes_;
  const Plan& plan = engine_->plan();
  for (int t = 0; t < kTiers; ++t) {
    metrics.peak[t] = engine_->peak(static_cast<Tier>(t));
    metrics.budget[t] = plan.tiers[t].budget;
  }
  metrics.process_peak = process_memory().peak;
  metrics.prefill_experts = engine_->expert_counts(true);
  metrics.decode_experts = engine_->expert_counts(false);
  metrics.chosen = engine_->chosen_counts();
  metrics.missed = engine_->missed_mass();
  return metrics;
}

Metrics Running::metrics(const Generation& generation) const {
  Metrics result = metrics();
  result.timings = generation.timings;
  result.timings.load_s = load_s_;
  result.prompt_tokens = generation.prompt_tokens;
  result.decode_steps = generation.decode_steps;
  result.waits = generation.waits;
  result.prefill = generation.prefill_bytes;
  result.decode = generation.decode_bytes;
  return result;
}

void Running::end_answer(const Generation& generation) {
  if (flags_.json) {
    put(generation_json(generation, metrics(generation), engine_->plan())
            .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  put("\n");
  flush_output();
  report_layers();
  if (flags_.stats) say(stats_text(generation));
}

std::string Running::stats_text(const Generation& generation) const {
  return metrics_text(metrics(generation), link_peaks());
}

int Running::finish(const Generation& generation) {
  end_answer(generation);
  if (generation.finish == FinishReason::interrupted) say("interrupted");
  if (generation.context_full) {
    say(fmt::format("the context of {} positions is full (-c): finish_reason length", engine_->plan().context));
  }
  return generation.finish == FinishReason::interrupted ? kInterruptedCode : 0;
}

void Running::report_layers() const {
  const std::string line = device_.device->ops().layers_report();
  if (!line.empty() && (flags_.stats || flags_.verbosity > 0)) say(line);
}

void Running::report_stats(const PhaseCost& prefill, const PhaseCost& decode) const {
  report_layers();
  if (!flags_.stats) return;
  const auto speed = [](const PhaseCost& phase) {
    return phase.seconds > 0 ? static_cast<double>(phase.tokens) / phase.seconds : 0;
  };
  Metrics result = metrics();
  result.prompt_tokens = prefill.tokens;
  result.timings.prefill_s = prefill.seconds;
  result.timings.prefill_tps = speed(prefill);
  result.decode_steps = decode.tokens;
  result.timings.decode_s = decode.seconds;
  result.timings.decode_tps = speed(decode);
  result.waits = prefill.waits;
  result.waits += decode.waits;
  result.prefill = prefill.bytes;
  result.decode = decode.bytes;
  result.load = LinkBytes::of(engine_->traffic()).since(prefill.bytes).since(decode.bytes);
  say(metrics_text(result, link_peaks()));
}

}  // namespace spillway

#include "runtime/layer_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "memory/format_bytes.h"
#include "runtime/nearest_fit.h"
#include "runtime/plan_sizes.h"

namespace spillway {
namespace {

// What the split is chosen for: an answer of so many tokens to a prompt of so many. A CPU that decodes faster than a
// link streams may still be much the slower one at prompts.
constexpr double kPromptTokens = 512, kAnswerTokens = 128;
// Fewer layers on the device must be worth it.
constexpr double kWorthIt = 1.1;
constexpr int kCandidates = 24;  // numbers of layers tried, of a deep model

double job_seconds(const Expected& e) { return kPromptTokens / e.prefill_tps + kAnswerTokens / e.decode_tps; }

class LayerSplit {
 public:
  explicit LayerSplit(const PlanInput& input) : in_(input), layers_(input.spec.shape.layers) {}

  std::optional<Plan> at(int device_layers) const {
    if (device_layers == layers_) return plan_unit(in_);
    std::optional<Plan> best;
    for (const double share : {1.0, 0.75, 0.5, 0.25}) {
      std::optional<Plan> plan = at(device_layers, share);
      if (!plan) continue;
      const Plan& cpu = plan->before.front();
      const bool settled = plan->expected.bound.empty() || (!cpu.streams() && !cpu.spills_kv());
      if (!best || job_seconds(plan->expected) < job_seconds(best->expected)) best = std::move(plan);
      if (settled) break;
    }
    return best;
  }

  std::optional<Plan> fastest() const {
    std::optional<Plan> best = at(layers_);
    if (best && (best->expected.bound.empty() || (!best->streams() && !best->spills_kv()))) return best;
    const int step = std::max(1, layers_ / kCandidates);
    for (int count = layers_ - 1; count >= 0; count -= step) {
      std::optional<Plan> plan = at(count);
      if (!plan) continue;
      if (!best || job_seconds(plan->expected) * kWorthIt < job_seconds(best->expected)) best = std::move(plan);
    }
    return best;
  }

  [[noreturn]] void refuse(int device_layers) const {
    const Halves halves(*this, device_layers);
    const uint64_t host = halves.least_host(), device = halves.least_device();
    std::string text = fmt::format("does not fit with -ngl {}:", device_layers);
    if (host > host_budget()) {
      text += fmt::format(
          " layers 0 to {} on the CPU need {} of host memory beside what the device needs of it ({} in "
          "all), but --host-mem is {};",
          layers_ - device_layers - 1, format_bytes(halves.cpu_sizes.least_device(0, disk_budget())),
          format_bytes_beside(host, host_budget()), format_bytes_beside(host_budget(), host));
    }
    if (device > device_budget()) {
      text += fmt::format(" {} layers on the device need {}, but --device-mem is {};", device_layers,
                          format_bytes_beside(device, device_budget()), format_bytes_beside(device_budget(), device));
    }
    throw Error(ErrorKind::fit, text + " nearest fit: " + nearest(device_layers, host, device));
  }

 private:
  // The two models, and the options that each unit is planned with.
  struct Halves {
    ModelSpec cpu_spec, device_spec;
    Options cpu_options, device_options;
    PlanInput cpu, device;
    PlanSizes cpu_sizes, device_sizes;  // the least

    Halves(const LayerSplit& split, int device_layers)
        : cpu_spec(split.in_.spec.stretch(0, split.layers_ - device_layers, false)),
          device_spec(split.in_.spec.stretch(split.layers_ - device_layers, split.layers_, true)),
          cpu_options(options_of_host_unit(split.in_.options)),
          device_options(split.in_.options),
          cpu{.options = cpu_options,
              .spec = cpu_spec,
              .checkpoint = split.in_.checkpoint,
              .device = split.in_.host->device,
              .ops = split.in_.host->ops,
              .limits = split.in_.host->limits,
              .skew = split.in_.skew},
          device{.options = device_options,
                 .spec = device_spec,
                 .checkpoint = split.in_.checkpoint,
                 .device = split.in_.device,
                 .ops = split.in_.ops,
                 .limits = split.in_.limits,
                 .process_bytes = split.in_.process_bytes,
                 .skew = split.in_.skew},
          cpu_sizes(cpu),
          device_sizes(device) {}
    Halves(const Halves&) = delete;

    uint64_t least_host() const {
      return device_sizes.host_fixed() + cpu_sizes.least_device(0, cpu_options.disk_bytes);
    }
    uint64_t least_device() const {
      return device_sizes.least_device(*device_options.host_bytes, device_options.disk_bytes);
    }
  };

  uint64_t host_budget() const { return *in_.options.host_bytes; }
  uint64_t device_budget() const { return *in_.options.device_bytes; }
  uint64_t disk_budget() const { return in_.options.disk_bytes; }

  // The CPU may take `share` of the host memory that the device's half does not need itself; what it leaves is the
  // device's, and so with the disk.
  std::optional<Plan> at(int device_layers, double share) const {
    Halves halves(*this, device_layers);
    if (halves.least_host() > host_budget()) return std::nullopt;
    const uint64_t room = host_budget() - halves.device_sizes.host_fixed();
    halves.cpu_options.device_bytes = static_cast<uint64_t>(share * static_cast<double>(room));
    std::optional<Plan> cpu = plan_unit(halves.cpu);
    if (!cpu) return std::nullopt;
    halves.device_options.host_bytes = host_budget() - cpu->tier(Tier::device).total();
    halves.device_options.disk_bytes -= cpu->tier(Tier::disk).kv;
    std::optional<Plan> plan = plan_unit(halves.device);
    if (!plan) return std::nullopt;
    plan->first_layer = layers_ - device_layers;
    plan->last_layer = layers_;
    plan->tier(Tier::host).budget = host_budget();
    plan->tier(Tier::disk).budget = disk_budget();
    plan->take_in(std::move(*cpu));
    plan->expected = predict(*plan, halves.device_spec, in_.limits);
    return plan;
  }

  std::string nearest(int wanted, uint64_t host, uint64_t device) const {
    for (int distance = 1; distance <= layers_; ++distance) {
      for (const int count : {wanted + distance, wanted - distance}) {
        if (count >= 0 && count <= layers_ && at(count)) return fmt::format("-ngl {}", count);
      }
    }
    constexpr uint64_t kMiB = 1 << 20;
    return fmt::format("--device-mem {}MiB --host-mem {}MiB", align_up(std::max(device, device_budget()), kMiB) / kMiB,
                       align_up(std::max(host, host_budget()), kMiB) / kMiB);
  }

  const PlanInput& in_;
  int layers_;
};

}  // namespace

Options options_of_host_unit(const Options& options) {
  Options cpu = options;
  cpu.device_bytes = options.host_bytes;
  cpu.host_bytes.reset();
  cpu.kv_device_bytes.reset();
  cpu.link_bytes_per_second = 0;
  return cpu;
}

bool may_split(const PlanInput& input) {
  return input.host != nullptr && input.options.host_bytes.has_value() &&
         (input.options.device_layers || !input.device.host_addressable());
}

Plan plan_split(const PlanInput& input) {
  const LayerSplit split(input);
  if (!input.options.device_layers) {
    if (std::optional<Plan> plan = split.fastest()) return std::move(*plan);
    refuse_to_plan(input);
  }
  const int wanted = std::min(*input.options.device_layers, input.spec.shape.layers);
  if (std::optional<Plan> plan = split.at(wanted)) return std::move(*plan);
  if (wanted == input.spec.shape.layers) refuse_to_plan(input);
  split.refuse(wanted);
}

}  // namespace spillway

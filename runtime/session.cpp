#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "memory/kv/layout.h"
#include "runtime/free_disk.h"
#include "runtime/kv_sizes.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;
// Stacks, rings of the kernel and what the run itself allocates, beyond what is resident when it is planned.
constexpr uint64_t kProcessMargin = 8ull << 20;
// What a worker touches of its stack and of the allocator's, once it computes: 85 KiB were seen with 128 to 1000 of
// them.
constexpr uint64_t kMarginPerWorker = 128ull << 10;
// With less, measuring would pass the budget: then only what was measured before is known.
constexpr uint64_t kLeastToMeasure = 32ull << 20;
// Left over when no budget is given: a share of what is free, at least `least`, at most a half. The rest of the machine
// lives on it; inside a control group's limit there are only the kernel's own needs.
struct Headroom {
  uint64_t share, least;
};
constexpr Headroom kOfTheMachine = {20, 192ull << 20};
constexpr Headroom kOfAGroup = {32, 96ull << 20};

uint64_t default_budget(uint64_t free, const Headroom& headroom) {
  return free - std::min(std::max(free / headroom.share, headroom.least), free / 2);
}

// A budget is the user's word, but what is not there cannot be reserved.
void check_memory(const char* kind, const char* flags, uint64_t need, uint64_t free) {
  if (need <= free) return;
  throw Error(ErrorKind::fit, fmt::format("does not fit: the plan takes {} of {}, but {} are free here; nearest fit: a "
                                          "budget ({}) below that, or a smaller -c",
                                          format_bytes(need), kind, format_bytes(free), flags));
}

// Memory of the machine, and of the device where it has its own, that this process could have in all.
uint64_t memory_for_us() { return free_memory_bytes() + process_memory().own; }
uint64_t memory_for_us(const Device& device) {
  return device.host_addressable() ? memory_for_us() : device.free_bytes() + device.overhead_bytes();
}

void check_memory(const Plan& plan, const Device& device) {
  const uint64_t on_device = plan.tier(Tier::device).total(), on_host = plan.tier(Tier::host).total();
  if (device.host_addressable()) {
    return check_memory("memory", "--device-mem, --host-mem", on_device + on_host, memory_for_us());
  }
  check_memory("device memory", "--device-mem", on_device, memory_for_us(device));
  check_memory("host memory", "--host-mem", on_host, memory_for_us());
}

// Nor can a spill file on a drive that is full. Where the file system does not say what is free, making the file tells.
void check_disk(const Plan& plan, const std::string& directory) {
  const uint64_t need = plan.tier(Tier::disk).kv;
  if (need == 0) return;
  const std::optional<uint64_t> free = free_disk_bytes(directory);
  if (!free || need <= *free) return;
  throw Error(
      ErrorKind::fit,
      fmt::format("does not fit: the plan takes {} ({} bytes) on disk, but {} ({} bytes) are free in {}; nearest "
                  "fit: a --disk-mem below that, another --disk-dir, or a smaller -c",
                  format_bytes(need), need, format_bytes(*free), *free, directory));
}

// The GPU, or null and why there is none for this.
std::unique_ptr<Device> try_cuda(const Options& options, const ModelShape& shape, std::string* why_not) {
  std::unique_ptr<Device> device;
  try {
    device = make_cuda_device(options.cuda, why_not);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    *why_not = error.what();
  }
  if (device == nullptr) return nullptr;
  *why_not = device->ops().why_not(shape);
  return why_not->empty() ? std::move(device) : nullptr;
}

}  // namespace

ChosenDevice choose_device(const Options& options, const ModelShape& shape) {
  if (options.device == DeviceChoice::reference) {
    return {make_reference_device(), "device: reference (double precision, for checking, slow)", nullptr};
  }
  const bool wants_cuda = options.device == DeviceChoice::cuda;
  if (wants_cuda && options.link_bytes_per_second > 0) {
    throw Error(ErrorKind::usage, "--link-gbps emulates a link beside a CPU, and --device cuda has a real one");
  }
  // What is asked of a CPU alone chooses it.
  const bool may_be_cuda =
      options.device == DeviceChoice::automatic && options.link_bytes_per_second == 0 && options.isa == CpuIsa::best;
  std::string why_not;
  if (wants_cuda || may_be_cuda) {
    if (auto device = try_cuda(options, shape, &why_not)) {
      std::string said = fmt::format("device: {}{}", device->name(),
                                     device->emulated() ? " (CUDA emulated on the CPU: its speed says nothing)" : "");
      return {std::move(device), std::move(said), nullptr};
    }
    if (wants_cuda) throw Error(ErrorKind::io, "--device cuda: " + why_not);
  }
  ChosenDevice chosen{make_cpu_device({.threads = options.threads, .isa = options.isa}), {}, nullptr};
  chosen.said = fmt::format("device: {}{}{}", chosen.device->name(), why_not.empty() ? "" : "; ", why_not);
  return chosen;
}

std::unique_ptr<Device> cpu_beside(const Options& options, const ModelShape& shape, const Device& device) {
  if (options.device_layers && *options.device_layers >= shape.layers) return nullptr;
  if (device.host_addressable() && !(options.device_layers && options.host_bytes)) return nullptr;
  if (options.device == DeviceChoice::reference) return make_reference_device();
  return make_cpu_device({.threads = options.threads, .isa = options.isa});
}

namespace {

// Of the matrices, the first layer's first: what most of a model's weights are.
std::vector<DType> types_of(const ModelSpec& spec) {
  std::vector<DType> types;
  const auto add = [&](const auto& matrix) {
    if (matrix.cols > 0 && std::find(types.begin(), types.end(), matrix.dtype) == types.end()) {
      types.push_back(matrix.dtype);
    }
  };
  for (const LayerTensors& layer : spec.layers) {
    for (const TensorInfo* tensor :
         {&layer.q, &layer.k, &layer.v, &layer.attn_out, &layer.gate, &layer.up, &layer.down}) {
      add(*tensor);
    }
    for (const ExpertMatrix* stack : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) add(*stack);
  }
  add(spec.output);
  return types;
}

// `budget`: of the memory that the unit computes from, where one was given.
Limits measure_unit(const Model& model, const Options& options, Device& device, std::optional<uint64_t> budget,
                    const std::string& cache_file, const std::function<void(std::string_view line)>& progress) {
  const DType type = model.spec.layers.front().q.dtype;
  const ModelShape& shape = model.spec.shape;
  const HeadShape heads{shape.heads, shape.kv_heads, shape.head_dim};
  MachineOptions wanted;
  wanted.model_path = model.checkpoint.path();
  if (options.disk_bytes > 0) wanted.disk_folder = options.disk_directory;
  wanted.types = types_of(model.spec);
  wanted.heads = heads;
  wanted.threads = options.threads;
  // The reference is for checking: its speed is of no use, and takes long to measure.
  if (options.device == DeviceChoice::reference || device.emulated()) wanted.measure = false;
  if (budget && !options.only_planned) {
    // Inside the budget like all else; several buffers of that size may be alive at once.
    const uint64_t taken =
        device.host_addressable() ? process_memory().resident + kProcessMargin : device.overhead_bytes();
    const uint64_t left = *budget > taken ? *budget - taken : 0;
    wanted.most_bytes = std::min(wanted.most_bytes, left / 3);
    if (wanted.measure && wanted.most_bytes < kLeastToMeasure) {
      wanted.measure = false;
      if (options.refresh_machine) {
        progress("--refresh: the budget is too small to measure in; spillway plan --refresh measures outside of it");
      }
    }
  }
  wanted.cache_file = cache_file;
  wanted.refresh = options.refresh_machine;
  wanted.progress = progress;
  const Machine machine = measure_machine(device, wanted);
  const WeightSpeed speed = machine.weight_speed(type);
  return {.disk_read = machine.model_disk.read,
          .link = options.link_bytes_per_second > 0 ? options.link_bytes_per_second : machine.compute.host_to_device,
          .weight_bytes = speed.decode_bytes,
          .prefill_flops = speed.prefill_flops,
          .types = machine.compute.weights,
          .kv_bytes = machine.attention_speed(heads),
          .call_s = machine.compute.call_s};
}

}  // namespace

SessionLimits measure_session(const Model& model, const Options& options, const ChosenDevice& chosen,
                              const std::string& cache_file,
                              const std::function<void(std::string_view line)>& progress) {
  SessionLimits limits;
  limits.device = measure_unit(model, options, *chosen.device, options.device_bytes, cache_file, progress);
  // What says nothing of the device says nothing of how to divide the layers either.
  if (chosen.cpu == nullptr || chosen.device->emulated()) return limits;
  limits.cpu = measure_unit(model, options, *chosen.cpu, options.host_bytes, cache_file, progress);
  return limits;
}

Plan plan_session(const Model& model, Options& options, const ChosenDevice& chosen, const SessionLimits& limits) {
  const Device& device = *chosen.device;
  const int workers = device.workers() + (chosen.cpu ? chosen.cpu->workers() : 0);
  const uint64_t process =
      process_memory().resident + kProcessMargin + static_cast<uint64_t>(workers) * kMarginPerWorker;
  const Headroom of_memory = free_memory_is_a_groups() ? kOfAGroup : kOfTheMachine;
  if (!options.device_bytes) {
    // What the process holds already is not free any more, but is inside the budget.
    const uint64_t host = device.host_addressable() ? options.host_bytes.value_or(0) : 0;
    const uint64_t free = memory_for_us(device);
    options.device_bytes =
        default_budget(free - std::min(free, host), device.host_addressable() ? of_memory : kOfTheMachine);
  }
  if (!options.host_bytes && !device.host_addressable())
    options.host_bytes = default_budget(memory_for_us(), of_memory);
  if (options.context <= 0) options.context = model.spec.shape.context;
  std::optional<HostUnit> host;
  if (chosen.cpu) host.emplace(HostUnit{*chosen.cpu, chosen.cpu->ops(), limits.cpu});
  Plan plan = make_plan({.options = options,
                         .spec = model.spec,
                         .checkpoint = model.checkpoint,
                         .device = device,
                         .ops = chosen.device->ops(),
                         .limits = limits.device,
                         .process_bytes = process,
                         .host = host ? &*host : nullptr,
                         .skew = model.skew.get()});
  check_memory(plan, device);
  check_disk(plan, options.disk_directory);
  return plan;
}

namespace {

template <typename Visit>
void for_each_unit(const Plan& plan, const Visit& visit) {
  for (const Plan& before : plan.before) for_each_unit(before, visit);
  visit(plan);
}

std::string layers_of(const Plan& plan) {
  const int count = plan.last_layer - plan.first_layer;
  if (count == 0) return "no layer";
  if (count == 1) return fmt::format("layer {}", plan.first_layer);
  return fmt::format("layers {} to {}", plan.first_layer, plan.last_layer - 1);
}

// A line; empty where there are none.
std::string describe_experts(const Plan& plan) {
  if (plan.expert_units.empty()) return {};
  const size_t count = plan.expert_units.size();
  if (!plan.moves_experts()) return fmt::format("{} experts, all on the device\n", count);
  std::string line = fmt::format("{} experts{}: slots of {:.2f} MiB for {} of them on the device", count,
                                 plan.expert_tier == Tier::host ? ", all in host RAM" : " on disk",
                                 plan.expert_slot_bytes / kMiB, plan.expert_device_slots);
  if (plan.expert_host_slots > 0) line += fmt::format(", for {} in host RAM", plan.expert_host_slots);
  return line + "; the least recently used give way\n";
}

std::string describe_layers(const Plan& plan) {
  return fmt::format("{} computed by the CPU in host RAM, {} and the head by the device",
                     layers_of(plan.before.front()), layers_of(plan));
}

}  // namespace

std::string describe_placement(const Plan& plan) {
  const auto weights = [&](Tier tier) { return plan.tier(tier).weights / kMiB; };
  const auto kv = [&](Tier tier) { return plan.tier(tier).kv / kMiB; };
  std::string line = fmt::format("weights: {:.0f} MiB on the device", weights(Tier::device));
  if (weights(Tier::host) > 0) line += fmt::format(", {:.0f} MiB in host RAM", weights(Tier::host));
  if (weights(Tier::disk) > 0) line += fmt::format(", {:.0f} MiB streamed from disk", weights(Tier::disk));
  if (plan.moves_experts()) {
    line += fmt::format(" by way of slots for {} of {} experts", plan.expert_device_slots, plan.expert_units.size());
  }
  line += fmt::format("; KV of {} positions: {:.0f} MiB on the device", plan.context, kv(Tier::device));
  if (kv(Tier::host) > 0) line += fmt::format(", {:.0f} MiB in host RAM", kv(Tier::host));
  if (kv(Tier::disk) > 0) line += fmt::format(", {:.0f} MiB on disk", kv(Tier::disk));
  if (!plan.before.empty()) line += "; " + describe_layers(plan);
  if (plan.emulated_link) line += "; the link between host and device is emulated";
  return line;
}

// What packed pages save, at full context; empty where there are none.
std::string describe_kv(const Plan& plan) {
  const KvSaved saved = kv_saved(plan);
  if (saved.packed_layers == 0) return {};
  return fmt::format("KV pages are {} in {} of {} layers: {:.1f} MiB at full context, {:.1f} MiB in fp16\n",
                     info(saved.codec).name, saved.packed_layers, saved.layers, saved.bytes / kMiB,
                     saved.fp16_bytes / kMiB);
}

// Item by item what choosing takes of the device; empty where decode steps read everything.
std::string describe_selection(const Plan& plan) {
  const SelectionPlan& s = plan.selection;
  if (!s.on()) return {};
  const KvLayout& layout = plan.kv_layout;
  const auto fp16 =
      static_cast<double>(page_rows(plan.context)) * layout.layers * static_cast<double>(layout.row_bytes());
  const auto kept = static_cast<double>(s.on_device() + layout.bytes(plan.kv_device_slots) + plan.kv_ring_bytes);
  std::string text = fmt::format(
      "KV is chosen by {} in {} of {} layers: up to {} tokens a head and step, by granules of {}; partial keys of {} "
      "numbers in {} bits {:.2f} MiB",
      kKvSelectorNames[static_cast<int>(s.wishes.selector)], layout.choosing_layers(), layout.layers,
      s.most * layout.chosen.granule_tokens, layout.chosen.granule_tokens, layout.chosen.partial.rank,
      layout.chosen.partial.bits, s.partial_keys / kMiB);
  const auto item = [&](const char* name, uint64_t bytes) {
    if (bytes > 0) text += fmt::format(", {} {:.2f} MiB", name, bytes / kMiB);
  };
  item("key scales of packed pages", s.key_scales);
  item(fmt::format("hot set of {} granules a head", s.hot_slots).c_str(), s.hot_set);
  item("pages and their ring", layout.bytes(plan.kv_device_slots) + plan.kv_ring_bytes);
  item("landing of reads", s.landing.bytes());
  item("scores and places", s.workspace);
  item("directions", s.directions);
  item("query matrices", s.query_matrices);
  return text + fmt::format("; {:.0f}% of the KV in fp16\n", 100 * kept / fp16);
}

std::string describe_plan(const Plan& plan) {
  std::string table = fmt::format("{:<8}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}\n", "tier", "budget",
                                  "weights", "KV", "selection", "workspace", "rings", "process", "total");
  for (int t = 0; t < kTiers; ++t) {
    const TierPlan& tier = plan.tiers[t];
    // Streamed weights lie in the model's own files: no part of the disk budget.
    const bool disk = t == static_cast<int>(Tier::disk);
    table += fmt::format("{:<8}", kTierNames[t]);
    for (const uint64_t bytes : {tier.budget, tier.weights, tier.kv, tier.selection, tier.workspace, tier.rings,
                                 tier.process, disk ? tier.kv : tier.total()}) {
      table += fmt::format("{:>8.1f} MiB", bytes / kMiB);
    }
    table += "\n";
  }
  table += describe_kv(plan);
  for_each_unit(plan, [&](const Plan& unit) { table += describe_selection(unit); });
  const Expected& e = plan.expected;
  size_t units = 0, streaming = 0;
  for_each_unit(plan, [&](const Plan& unit) {
    units += unit.units.size();
    streaming +=
        std::count_if(unit.unit_tiers.begin(), unit.unit_tiers.end(), [](Tier t) { return t != Tier::device; });
  });
  table += fmt::format("context {} positions, prompt chunks of {}; {} weight units, of which {} stream\n", plan.context,
                       plan.chunk, units, streaming);
  if (!plan.before.empty()) table += describe_layers(plan) + "\n";
  for_each_unit(plan, [&](const Plan& unit) { table += describe_experts(unit); });
  if (e.bound.empty()) {
    return table + "expected: not known, this machine has not been measured (spillway plan --refresh does it)\n";
  }
  table += fmt::format(
      "expected{}: decode {:.2f} tokens/s at full context, prefill {:.1f} tokens/s; {} binds "
      "(disk {:.2f} ms, link {:.2f} ms, compute {:.2f} ms a token)\n",
      plan.emulated_link ? " (emulated link)" : "", e.decode_tps, e.prefill_tps, e.bound, 1e3 * e.disk_s,
      1e3 * e.link_s, 1e3 * e.compute_s);
  return table;
}

}  // namespace spillway

#include "runtime/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "runtime/free_disk.h"
#include "runtime/measure_layers.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

// Stacks, rings of the kernel and what the run itself allocates, beyond what is resident when it is planned.
constexpr uint64_t kProcessMargin = 8ull << 20;
// What a worker touches of its stack and of the allocator's, once it computes: 85 KiB were seen with 128 to 1000 of
// them.
constexpr uint64_t kMarginPerWorker = 128ull << 10;
// From a place that is free to the read that fills it, and from its end to the reader, threads wake one another: on two
// busy cores 150 to 300 us in all were seen, beside the drive's own latency.
constexpr double kHandOver = 300e-6;
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
  throw Error(ErrorKind::fit,
              fmt::format("does not fit: the plan takes {} of {}, but {} are free here; nearest fit: a "
                          "budget ({}) below that, or a smaller -c",
                          format_bytes_beside(need, free), kind, format_bytes_beside(free, need), flags));
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
  uint64_t left = UINT64_MAX;
  if (budget && !options.only_planned) {
    // Inside the budget like all else; several buffers of that size may be alive at once.
    const uint64_t taken =
        device.host_addressable() ? process_memory().resident + kProcessMargin : device.overhead_bytes();
    left = *budget > taken ? *budget - taken : 0;
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
  Limits limits{
      .disk_read = machine.model_disk.read,
      .disk_latency_s = machine.model_disk.latency_s + kHandOver,
      .link = options.link_bytes_per_second > 0 ? options.link_bytes_per_second : machine.compute.host_to_device,
      .weight_bytes = speed.decode_bytes,
      .prefill_flops = speed.prefill_flops,
      .types = machine.compute.weights,
      .kv_bytes = machine.attention_speed(heads),
      .call_s = machine.compute.call_s};
  const auto times = layer_times(model, options, device, machine,
                                 {.most_bytes = left,
                                  .cache_file = cache_file,
                                  .measure = wanted.measure,
                                  .refresh = wanted.refresh,
                                  .progress = progress});
  if (times) calibrate(limits, model.spec, model.checkpoint, *times);
  return limits;
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

Plan plan_session(const Model& model, Options& options, const ChosenDevice& chosen, const SessionLimits& limits,
                  const PlanFile* given) {
  const Device& device = *chosen.device;
  const int workers = device.workers() + (chosen.cpu ? chosen.cpu->workers() : 0);
  const uint64_t resident = limits.process > 0 ? limits.process : process_memory().resident;
  const uint64_t process = resident + kProcessMargin + static_cast<uint64_t>(workers) * kMarginPerWorker;
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
  const PlanInput input{.options = options,
                        .spec = model.spec,
                        .checkpoint = model.checkpoint,
                        .device = device,
                        .ops = chosen.device->ops(),
                        .limits = limits.device,
                        .process_bytes = process + options.process_room,
                        .host = host ? &*host : nullptr,
                        .skew = model.skew.get()};
  Plan plan = given != nullptr ? given->plan(input) : make_plan(input);
  check_memory(plan, device);
  check_disk(plan, options.disk_directory);
  return plan;
}

}  // namespace spillway

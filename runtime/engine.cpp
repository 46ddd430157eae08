#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/check.h"
#include "memory/arena.h"
#include "memory/kv/layout.h"
#include "runtime/compute_unit.h"
#include "runtime/disk_folder.h"

namespace spillway {
namespace {

std::vector<const File*> files_of(const Model& model, const std::optional<File>& spill) {
  std::vector<const File*> files;
  for (const File& file : model.checkpoint.files) files.push_back(&file);
  if (spill) files.push_back(&*spill);
  return files;
}

}  // namespace

// In the order of construction; destroyed in reverse.
struct Engine::Parts {
  Device& device;
  Arena device_arena;
  Arena host_arena;
  std::optional<File> spill_file;
  std::unique_ptr<DiskQueue> disk;
  std::span<std::byte> host_inputs, host_logits;
  std::unique_ptr<ComputeUnit> unit;
  std::unique_ptr<Pass> pass;

  Parts(const Model& model, const Options& options, const Plan& plan, Device& on, Traffic& traffic)
      : device(on),
        device_arena(on, Tier::device, plan.tier(Tier::device).total() - plan.tier(Tier::device).process),
        host_arena(on, Tier::host, plan.tier(Tier::host).total() - plan.tier(Tier::host).process) {
    const uint64_t spill_bytes = plan.tier(Tier::disk).kv;
    if (spill_bytes > 0) {
      spill_file = naming_disk_folder([&] { return File::make_unnamed(options.disk_directory, spill_bytes); });
    }
    if (plan.tier(Tier::disk).weights > 0 || spill_bytes > 0) {
      std::vector<std::span<std::byte>> memory{plan.staged ? host_arena.memory() : device_arena.memory()};
      disk = DiskQueue::open(files_of(model, spill_file), std::move(memory), {});
    }
    Arena& inputs = device.host_addressable() ? device_arena : host_arena;
    host_inputs = inputs.take("host inputs", plan.host_input_bytes);
    host_logits = host_arena.take("host logits", plan.host_logit_bytes);
    unit = std::make_unique<ComputeUnit>(
        ComputeUnitParts{model, options, plan, device, device_arena, host_arena, disk.get(), traffic});
    device_arena.freeze();
    host_arena.freeze();
    const ComputeUnit& u = *unit;
    pass =
        std::make_unique<Pass>(PassParts{model.spec, model.checkpoint, device.ops(), *u.compute, u.home, *u.weight_feed,
                                         *u.kv, *u.kv_feed, u.workspace, u.vectors, plan.context, host_inputs});
  }

  // Nothing is torn down under a running stream.
  ~Parts() {
    unit->end_feeds();
    if (disk) disk->cancel();
    unit->drain();
  }
};

Engine::Engine(const Model& model, const Options& options, Plan plan, Device& device, const OnProgress& progress)
    : plan_(std::move(plan)), parts_(std::make_unique<Parts>(model, options, plan_, device, traffic_)) {
  parts_->unit->load(model, traffic_, progress);
}

Engine::~Engine() = default;

SequenceId Engine::open_sequence() { return parts_->unit->kv->open(); }
SequenceId Engine::fork_sequence(SequenceId from) { return parts_->unit->kv->fork(from); }
int Engine::tokens(SequenceId sequence) const { return parts_->unit->kv->tokens(sequence); }

void Engine::close_sequence(SequenceId sequence) {
  parts_->unit->kv_feed->end();
  parts_->unit->kv->close(sequence, parts_->unit->compute->record());
}

int Engine::truncate_sequence(SequenceId sequence, int tokens) {
  parts_->unit->kv_feed->end();
  return parts_->unit->kv->truncate(sequence, tokens, parts_->unit->compute->record());
}

void Engine::prefill(SequenceId sequence, std::span<const int32_t> tokens, LogitRows rows, bool decode_follows,
                     const OnRow& on_row, const OnProgress& progress) {
  const int total = static_cast<int>(tokens.size());
  const auto end_of = [&](int begin) { return std::min(begin + plan_.chunk, total); };
  const auto rows_wanted = [&](int begin) {
    return std::clamp(end_of(begin) - (total - rows.count), 0, end_of(begin) - begin);
  };
  for (int begin = 0; begin < total; begin = end_of(begin)) {
    const int end = end_of(begin);
    const PassInput input{.sequence = sequence,
                          .tokens = tokens.subspan(begin, end - begin),
                          .decode = false,
                          .logit_rows = rows_wanted(begin),
                          .choice = rows.choice,
                          .next_logit_rows = end < total      ? rows_wanted(end)
                                             : decode_follows ? 1
                                                              : PassInput::kNoPass};
    run(input, [&](int first, View logits) {
      const View here = on_host(logits);
      end_step();
      for (int row = 0; row < here.rows; ++row) {
        on_row(begin + first + row, {here.f32(row), static_cast<size_t>(here.cols)});
      }
    });
    if (progress) {
      end_step();
      progress(end, total);
    }
  }
  end_step();
}

std::span<const float> Engine::decode(SequenceId sequence, int32_t token, bool another, const RowChoice* choice) {
  std::span<const float> row;
  const PassInput input{.sequence = sequence,
                        .tokens = {&token, 1},
                        .decode = true,
                        .logit_rows = 1,
                        .choice = choice,
                        .next_logit_rows = another ? 1 : PassInput::kNoPass};
  run(input, [&](int, View logits) { row = {on_host(logits).f32(), static_cast<size_t>(logits.cols)}; });
  end_step();
  return row;
}

bool Engine::should_choose() const { return !parts_->device.host_addressable(); }

std::span<const float> Engine::last_logits() {
  const View row = on_host(parts_->unit->workspace.logits.slice_rows(0, 1));
  end_step();
  return {row.f32(), static_cast<size_t>(row.cols)};
}

void Engine::run(const PassInput& input, const Pass::OnLogits& on_logits) {
  parts_->pass->run(input, on_logits);
  if (!parts_->device.host_addressable()) {
    traffic_.add(Link::host_to_device, Cause::activations, input.tokens.size() * parts_->pass->input_bytes_per_token());
  }
}

// Where the host can read it, after the step.
View Engine::on_host(View logits) {
  if (parts_->host_logits.empty()) return logits;
  const View host = View::dense(parts_->host_logits.data(), logits.dtype, logits.rows, logits.cols);
  const uint64_t bytes = static_cast<uint64_t>(host.rows) * host.stride;
  parts_->unit->compute->copy(host.data, logits.data, bytes);
  traffic_.add(Link::device_to_host, Cause::activations, bytes);
  return host;
}

// The one place where errors of asynchronous work surface.
void Engine::end_step() {
  parts_->unit->compute->synchronize();
  if (!parts_->disk) return;
  const std::string spill = parts_->spill_file ? parts_->spill_file->path() : "";
  if (spill.empty()) return parts_->disk->check();
  naming_disk_folder([&] { parts_->disk->check(); }, spill);
}

uint64_t Engine::peak(Tier tier) const {
  const TierPlan& planned = plan_.tier(tier);
  return planned.total() - planned.kv + parts_->unit->kv->bytes_peak(tier) - (tier == Tier::disk ? planned.weights : 0);
}

uint64_t Engine::kv_bytes(Tier tier) const { return parts_->unit->kv->bytes_used(tier); }

std::string Engine::disk_report() const {
  if (!parts_->disk) return {};
  const std::string why = parts_->disk->why();
  return fmt::format("disk: {}{}", kDiskMethodNames[static_cast<int>(parts_->disk->method())],
                     why.empty() ? "" : " (" + why + ")");
}

DiskStats Engine::disk_stats() const { return parts_->disk ? parts_->disk->stats() : DiskStats{}; }

}  // namespace spillway

#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/check.h"
#include "memory/arena.h"
#include "memory/kv/layout.h"
#include "prefetch/copy_engine.h"
#include "runtime/disk_folder.h"
#include "runtime/weight_loader.h"

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
  std::unique_ptr<Stream> compute;
  std::unique_ptr<CopyLane> weight_lane, fetch_lane, spill_lane;
  WeightHome home;
  ModelVectors vectors;
  Workspace workspace;
  std::span<std::byte> host_inputs, host_logits, load_staging;
  std::unique_ptr<KvCache> kv;
  std::unique_ptr<WeightFeed> weight_feed;
  std::unique_ptr<KvFeed> kv_feed;
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
    compute = device.make_compute_stream("compute");
    const auto lane = [&](const char* name) {
      std::span<std::byte> staging;
      if (plan.staged) staging = host_arena.take(std::string(name) + " staging", plan.staging.bytes());
      if (load_staging.empty()) load_staging = staging;  // the lanes move nothing before the weights are there
      return std::make_unique<CopyLane>(name, device, disk.get(), traffic, staging, plan.staging,
                                        options.link_bytes_per_second);
    };
    if (plan.streams_weights() || plan.staged) weight_lane = lane("weights");
    if (plan.spills_kv() || plan.staged) fetch_lane = lane("kv fetch");
    if (plan.spills_kv() || plan.staged) spill_lane = lane("kv spill");

    std::byte* activations = device_arena.take("workspace", plan.workspace_bytes).data();
    Workspace::cut(model.spec, {plan.chunk, plan.logit_rows, plan.context}, device.ops(), activations, &workspace);
    device.ops().set_scratch(workspace.scratch, workspace.scratch_bytes);
    Arena& inputs = device.host_addressable() ? device_arena : host_arena;
    host_inputs = inputs.take("host inputs", plan.host_input_bytes);
    host_logits = host_arena.take("host logits", plan.host_logit_bytes);
    place_weights(plan);
    place_kv(model, plan);
    const auto weight_ring = device_arena.take("weight ring", plan.weight_ring_bytes);
    const auto kv_ring = device_arena.take("KV ring", plan.kv_ring_bytes);
    weight_feed = std::make_unique<WeightFeed>(home, weight_ring, plan.lookahead, weight_lane.get());
    kv_feed = std::make_unique<KvFeed>(*kv, kv_ring, plan.lookahead, fetch_lane.get(), spill_lane.get());
  }

  // Nothing is torn down under a running stream. A lane may wait for another's event, so all are drained first.
  ~Parts() {
    if (weight_feed) weight_feed->end();
    if (kv_feed) kv_feed->end();
    if (disk) disk->cancel();
    // A queue that failed has already said so at the end of its step.
    try {
      compute->synchronize();
    } catch (const std::exception&) {
    }
    for (const auto* lane : {&weight_lane, &fetch_lane, &spill_lane}) {
      if (*lane) (*lane)->drain();
    }
  }

  void place_weights(const Plan& plan) {
    home.units = plan.units;
    for (size_t i = 0; i < plan.units.size(); ++i) {
      WeightPlace place{plan.unit_tiers[i], nullptr};
      if (place.tier == Tier::device) place.data = device_arena.take("weights", plan.units[i].bytes).data();
      if (place.tier == Tier::host) place.data = host_arena.take("weights", plan.units[i].bytes).data();
      home.places.push_back(place);
    }
  }

  void place_kv(const Model& model, const Plan& plan) {
    const KvLayout layout(model.spec.shape);
    KvPools pools{.device_slots = plan.kv_device_slots,
                  .host_slots = plan.kv_host_slots,
                  .disk_slots = plan.kv_disk_slots,
                  .device_rows_per_layer = plan.kv_device_rows_per_layer,
                  .file = static_cast<uint32_t>(model.checkpoint.files.size())};
    pools.device = device_arena.take("KV", plan.kv_device_slots * layout.row_bytes()).data();
    pools.host = host_arena.take("KV", plan.kv_host_slots * layout.row_bytes()).data();
    kv = std::make_unique<KvCache>(layout, pools);
  }
};

Engine::Engine(const Model& model, const Options& options, Plan plan, Device& device, const OnProgress& progress)
    : model_(model), plan_(std::move(plan)), parts_(std::make_unique<Parts>(model, options, plan_, device, traffic_)) {
  load_weights(progress);
  Parts& p = *parts_;
  p.device_arena.freeze();
  p.host_arena.freeze();
  p.pass =
      std::make_unique<Pass>(PassParts{model_.spec, model_.checkpoint, device.ops(), *p.compute, p.home, *p.weight_feed,
                                       *p.kv, *p.kv_feed, p.workspace, p.vectors, plan_.context, p.host_inputs});
}

Engine::~Engine() = default;

void Engine::load_weights(const OnProgress& progress) {
  Parts& p = *parts_;
  WeightLoader loader(p.device, model_.checkpoint, p.load_staging, traffic_);
  uint64_t total = 0, done = 0;
  for (size_t i = 0; i < p.home.units.size(); ++i) {
    if (p.home.places[i].data != nullptr) total += p.home.units[i].bytes;
  }
  for (size_t i = 0; i < p.home.units.size(); ++i) {
    const WeightPlace& place = p.home.places[i];
    if (place.data == nullptr) continue;
    for (const WeightRun& run : p.home.units[i].runs) {
      loader.load(run.extent, run.needed, place.tier, place.data + run.offset);
    }
    done += p.home.units[i].bytes;
    if (progress) progress(done, total);
  }
  std::vector<std::byte> vectors(plan_.small_bytes);
  ModelVectors::read(model_.spec, model_.checkpoint, vectors);
  std::byte* place = p.device_arena.take("norms and biases", plan_.small_bytes).data();
  loader.put(vectors, place);
  p.vectors = ModelVectors::cut(model_.spec, place);
  loader.finish();
}

SequenceId Engine::open_sequence() { return parts_->kv->open(); }
SequenceId Engine::fork_sequence(SequenceId from) { return parts_->kv->fork(from); }
int Engine::tokens(SequenceId sequence) const { return parts_->kv->tokens(sequence); }

void Engine::close_sequence(SequenceId sequence) {
  parts_->kv_feed->end();
  parts_->kv->close(sequence, parts_->compute->record());
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
  const View row = on_host(parts_->workspace.logits.slice_rows(0, 1));
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
  parts_->compute->copy(host.data, logits.data, bytes);
  traffic_.add(Link::device_to_host, Cause::activations, bytes);
  return host;
}

// The one place where errors of asynchronous work surface.
void Engine::end_step() {
  parts_->compute->synchronize();
  if (!parts_->disk) return;
  const std::string spill = parts_->spill_file ? parts_->spill_file->path() : "";
  if (spill.empty()) return parts_->disk->check();
  naming_disk_folder([&] { parts_->disk->check(); }, spill);
}

uint64_t Engine::peak(Tier tier) const {
  const TierPlan& planned = plan_.tier(tier);
  const uint64_t row = parts_->kv->layout().row_bytes();
  return planned.total() - planned.kv + parts_->kv->slots_peak(tier) * row - (tier == Tier::disk ? planned.weights : 0);
}

uint64_t Engine::kv_bytes(Tier tier) const { return parts_->kv->slots_used(tier) * parts_->kv->layout().row_bytes(); }

std::string Engine::disk_report() const {
  if (!parts_->disk) return {};
  const std::string why = parts_->disk->why();
  return fmt::format("disk: {}{}", kDiskMethodNames[static_cast<int>(parts_->disk->method())],
                     why.empty() ? "" : " (" + why + ")");
}

DiskStats Engine::disk_stats() const { return parts_->disk ? parts_->disk->stats() : DiskStats{}; }

}  // namespace spillway

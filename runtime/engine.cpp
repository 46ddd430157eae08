#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "kernels/check.h"
#include "loader/printable.h"
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
  const Model& model;
  Device& device;
  Arena device_arena;
  Arena host_arena;
  std::optional<File> spill_file;
  std::unique_ptr<DiskQueue> disk;
  std::span<std::byte> host_logits;
  std::vector<std::unique_ptr<ComputeUnit>> units;  // in the order of their layers; the last one has the head

  Parts(const Model& model_, const Options& options, const Plan& plan, Device& on, Device* cpu, Traffic& traffic)
      : model(model_),
        device(on),
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
    host_logits = host_arena.take("host logits", plan.host_logit_bytes);
    uint64_t spilled = 0;
    for (const Plan& before : plan.before) {
      SPILLWAY_CHECK(cpu != nullptr);
      units.push_back(std::make_unique<ComputeUnit>(ComputeUnitParts{
          model, options, before, *cpu, host_arena, host_arena, disk.get(), traffic, spilled, "cpu "}));
      spilled += before.tier(Tier::disk).kv;
    }
    units.push_back(std::make_unique<ComputeUnit>(
        ComputeUnitParts{model, options, plan, device, device_arena, host_arena, disk.get(), traffic, spilled}));
    device_arena.freeze();
    host_arena.freeze();
  }

  ComputeUnit& last() { return *units.back(); }
  // Where the bytes of a unit's tier are: a CPU beside the device computes from host memory.
  Tier counted_as(const ComputeUnit& unit, Tier tier) const {
    return &unit != units.back().get() && tier == Tier::device ? Tier::host : tier;
  }
  // The sum over all units of what `bytes` says of a cache and the tier of it that is counted as `tier`.
  template <typename Bytes>
  uint64_t kv_bytes(Tier tier, const Bytes& bytes) const {
    uint64_t sum = 0;
    for (const auto& unit : units) {
      for (const Tier own : {Tier::device, Tier::host, Tier::disk}) {
        if (counted_as(*unit, own) == tier) sum += bytes(*unit->kv, own);
      }
    }
    return sum;
  }

  // Nothing is torn down under a running stream.
  ~Parts() {
    for (const auto& unit : units) unit->end_feeds();
    if (disk) disk->cancel();
    for (const auto& unit : units) unit->drain();
  }
};

Engine::Engine(const Model& model, const Options& options, Plan plan, const EngineDevices& devices,
               const OnProgress& progress)
    : plan_(std::move(plan)),
      parts_(std::make_unique<Parts>(model, options, plan_, devices.device, devices.cpu, traffic_)) {
  uint64_t done = 0, total = 0;
  for (const auto& unit : parts_->units) {
    for (const WeightHome* home : {&unit->home, &unit->experts}) {
      total += home->bytes_in(Tier::device) + home->bytes_in(Tier::host);
    }
  }
  for (const auto& unit : parts_->units) {
    unit->load(model, traffic_, [&](uint64_t read) {
      done += read;
      if (progress) progress(done, total);
    });
  }
}

Engine::~Engine() = default;

SequenceId Engine::open_sequence() {
  SequenceId id = 0;
  for (const auto& unit : parts_->units) id = unit->kv->open();  // all count alike
  return id;
}

SequenceId Engine::fork_sequence(SequenceId from) {
  SequenceId id = 0;
  for (const auto& unit : parts_->units) {
    id = unit->kv->fork(from);
    if (unit->rehearsal) unit->rehearsal->forked(from, id);
  }
  return id;
}

int Engine::tokens(SequenceId sequence) const { return parts_->last().kv->tokens(sequence); }

void Engine::close_sequence(SequenceId sequence) {
  for (const auto& unit : parts_->units) {
    unit->kv_feed->end();
    unit->kv->close(sequence, unit->compute->record());
    if (unit->rehearsal) unit->rehearsal->closed(sequence);
  }
}

// Of what has been let go nothing comes back, and attention that has been added up is not taken off.
bool Engine::lets_go() const {
  return plan_.selection.wishes.lets_go() &&
         std::any_of(parts_->units.begin(), parts_->units.end(), [](const auto& u) { return u->rehearsal != nullptr; });
}

int Engine::truncate_sequence(SequenceId sequence, int tokens) {
  if (tokens < this->tokens(sequence) && lets_go()) tokens = 0;
  const auto cut = [&] {
    for (const auto& unit : parts_->units) {
      unit->kv_feed->end();
      tokens = unit->kv->truncate(sequence, tokens, unit->compute->record());
    }
  };
  cut();
  if (parts_->units.size() > 1) cut();  // where one had to drop a whole page, so do the others
  return tokens;
}

void Engine::prefill(SequenceId sequence, std::span<const int32_t> tokens, LogitRows rows, bool decode_follows,
                     const OnRow& on_row, const OnProgress& progress) {
  const int total = static_cast<int>(tokens.size());
  if (lets_go() && this->tokens(sequence) > 0) {
    return step_through(sequence, tokens, rows, decode_follows, on_row, progress);
  }
  const auto end_of = [&](int begin) { return std::min(begin + plan_.chunk, total); };
  const auto rows_wanted = [&](int begin) {
    return std::clamp(end_of(begin) - (total - rows.count), 0, end_of(begin) - begin);
  };
  Event chunk_ended;
  for (int begin = 0; begin < total; begin = end_of(begin)) {
    const int end = end_of(begin);
    const PassPart part{.sequence = sequence,
                        .tokens = tokens.subspan(begin, end - begin),
                        .decode = false,
                        .logit_rows = rows_wanted(begin)};
    const bool another = end < total || decode_follows;
    const PassInput input{.parts = {&part, 1},
                          .choice = rows.choice,
                          .next = {.logit_rows = end < total      ? rows_wanted(end)
                                                 : decode_follows ? 1
                                                                  : NextPass::kNone,
                                   .decodes = end == total,
                                   .sequences = std::span(&sequence, another ? 1 : 0)},
                          .observer = observer_,
                          .prompt_window = prompt_window_};
    const int before = end - part.logit_rows;
    run(input, [&](int first, View logits) {
      const View here = on_host(logits);
      end_step();
      for (int row = 0; row < here.rows; ++row) {
        on_row(before + first + row, {here.f32(row), static_cast<size_t>(here.cols)});
      }
    });
    // One chunk is computed while the next is enqueued: what is said of it is said one chunk late.
    if (progress && begin > 0) {
      chunk_ended.wait();
      check_disk();
      progress(begin, total);
    }
    chunk_ended = parts_->last().compute->record();
  }
  end_step();
  if (progress) progress(total, total);
}

void Engine::step_through(SequenceId sequence, std::span<const int32_t> tokens, LogitRows rows, bool decode_follows,
                          const OnRow& on_row, const OnProgress& progress) {
  const int total = static_cast<int>(tokens.size());
  for (int i = 0; i < total; ++i) {
    const auto row = decode(sequence, tokens[i], i + 1 < total || decode_follows, rows.choice);
    if (i >= total - rows.count) on_row(i, row);
    if (progress) progress(i + 1, total);
  }
}

std::span<const float> Engine::decode(SequenceId sequence, int32_t token, bool another, const RowChoice* choice) {
  std::span<const float> row;
  const PassPart part{.sequence = sequence, .tokens = {&token, 1}, .decode = true, .logit_rows = 1};
  const PassInput input{.parts = {&part, 1},
                        .choice = choice,
                        .next = {.logit_rows = another ? 1 : NextPass::kNone,
                                 .decodes = true,
                                 .sequences = std::span(&sequence, another ? 1 : 0)},
                        .observer = observer_};
  run(input, [&](int, View logits) { row = {on_host(logits).f32(), static_cast<size_t>(logits.cols)}; });
  end_step();
  return row;
}

void Engine::step(const Step& step, const OnPartRows& on_rows) {
  std::vector<PassPart> parts(step.parts.begin(), step.parts.end());
  std::vector<size_t> numbers(parts.size());
  std::iota(numbers.begin(), numbers.end(), size_t{0});
  const auto few = static_cast<size_t>(parts_->device.ops().few_rows());
  std::stable_partition(numbers.begin(), numbers.end(), [&](size_t i) { return step.parts[i].tokens.size() <= few; });
  for (size_t i = 0; i < parts.size(); ++i) parts[i] = step.parts[numbers[i]];
  const PassInput input{.parts = parts, .any_kernel = step.any_kernel, .next = step.next, .observer = observer_};
  size_t part = 0;
  int row_of_part = 0;
  std::vector<PartRow> rows;
  run(input, [&](int, View logits) {
    const View here = on_host(logits);
    end_step();
    rows.clear();
    for (int row = 0; row < here.rows; ++row, ++row_of_part) {
      for (; row_of_part == parts[part].logit_rows; ++part) row_of_part = 0;
      const int index = static_cast<int>(parts[part].tokens.size()) - parts[part].logit_rows + row_of_part;
      rows.push_back({numbers[part], index, {here.f32(row), static_cast<size_t>(here.cols)}});
    }
    on_rows(rows);
  });
  end_step();
}

bool Engine::decodes_apart(int tokens) const {
  return std::any_of(parts_->units.begin(), parts_->units.end(),
                     [&](const auto& unit) { return unit->rehearsal && unit->rehearsal->chooses(tokens); });
}

int Engine::most_apart() const {
  int most = plan_.batch;
  for (const auto& unit : parts_->units) {
    if (unit->rehearsal) most = std::min(most, unit->rehearsal->together());
  }
  return most;
}

bool Engine::recomputes(bool any_kernel) const {
  return std::all_of(parts_->units.begin(), parts_->units.end(), [&](const auto& unit) {
    return !unit->rehearsal && unit->kv->layout().packed_layers() == 0 &&
           (any_kernel || unit->device.ops().few_rows() == 0);
  });
}

int Engine::identical_prefix() const {
  const bool by_chunk = std::any_of(parts_->units.begin(), parts_->units.end(), [](const auto& unit) {
    return unit->kv->layout().packed_layers() > 0 || unit->device.ops().few_rows() > 0;
  });
  if (!by_chunk) return kPageTokens;
  return plan_.chunk % kPageTokens == 0 ? plan_.chunk : 0;
}

int Engine::recent_pages() const {
  int pages = 0;
  for (const auto& unit : parts_->units) {
    const KvLayout& layout = unit->kv->layout();
    if (layout.packed_layers() > 0) pages = std::max(pages, layout.packed.recent_rows);
  }
  return pages;
}

bool Engine::should_choose() const { return !parts_->device.host_addressable(); }

std::span<const float> Engine::last_logits() {
  const View row = on_host(parts_->last().workspace.logits.slice_rows(0, 1));
  end_step();
  return {row.f32(), static_cast<size_t>(row.cols)};
}

// Rows of the embedding are read where they lie in the file: another id would read other bytes of it.
void Engine::check_tokens(const PassInput& input) const {
  const ModelSpec& spec = parts_->model.spec;
  for (const PassPart& part : input.parts) {
    for (const int32_t id : part.tokens) {
      if (id >= 0 && id < spec.shape.vocab) continue;
      throw Error(ErrorKind::model, fmt::format("{}: there is no token {}: {} has {} rows",
                                                parts_->model.checkpoint.files[spec.token_embedding.extent.file].path(),
                                                id, printable(spec.token_embedding.name), spec.shape.vocab));
    }
  }
}

void Engine::run(const PassInput& input, const Pass::OnLogits& on_logits) {
  check_tokens(input);
  Handover from;
  for (const auto& unit : parts_->units) {
    from = unit->pass->run(input, from, on_logits);
    if (unit->device.host_addressable()) continue;
    traffic_.add(Link::host_to_device, Cause::activations,
                 static_cast<uint64_t>(input.rows()) * unit->pass->input_bytes_per_token());
  }
}

// Where the host can read it, after the step.
View Engine::on_host(View logits) {
  if (parts_->host_logits.empty()) return logits;
  const View host = View::dense(parts_->host_logits.data(), logits.dtype, logits.rows, logits.cols);
  const uint64_t bytes = static_cast<uint64_t>(host.rows) * host.stride;
  parts_->last().compute->copy(host.data, logits.data, bytes);
  traffic_.add(Link::device_to_host, Cause::activations, bytes);
  return host;
}

// The one place where errors of asynchronous work surface.
void Engine::end_step() {
  for (const auto& unit : parts_->units) unit->compute->synchronize();
  check_disk();
}

void Engine::check_disk() {
  if (!parts_->disk) return;
  const std::string spill = parts_->spill_file ? parts_->spill_file->path() : "";
  if (spill.empty()) return parts_->disk->check();
  naming_disk_folder([&] { parts_->disk->check(); }, spill);
}

uint64_t Engine::peak(Tier tier) const {
  const TierPlan& planned = plan_.tier(tier);
  return planned.total() - planned.kv - (tier == Tier::disk ? planned.weights : 0) +
         parts_->kv_bytes(tier, [](const KvCache& kv, Tier t) { return kv.bytes_peak(t); });
}

uint64_t Engine::kv_kept(SequenceId sequence) const {
  uint64_t sum = 0;
  for (const auto& unit : parts_->units) sum += unit->kv->bytes_kept(sequence);
  return sum;
}

uint64_t Engine::kv_bytes(Tier tier) const {
  return parts_->kv_bytes(tier, [](const KvCache& kv, Tier t) { return kv.bytes_used(t); });
}

std::string Engine::disk_report() const {
  if (!parts_->disk) return {};
  const std::string why = parts_->disk->why();
  return fmt::format("disk: {}{}", kDiskMethodNames[static_cast<int>(parts_->disk->method())],
                     why.empty() ? "" : " (" + why + ")");
}

const WaitClock* Engine::waits() const { return parts_->last().compute->waits(); }

DiskStats Engine::disk_stats() const { return parts_->disk ? parts_->disk->stats() : DiskStats{}; }

ChosenCounts Engine::chosen_counts() const {
  ChosenCounts sum;
  for (const auto& unit : parts_->units) {
    if (unit->chosen_feed) sum += unit->chosen_feed->counts();
  }
  return sum;
}

void Engine::set_only_check(bool on) {
  for (const auto& unit : parts_->units) {
    if (unit->rehearsal) unit->rehearsal->set_only_check(on);
  }
}

MissedMass Engine::missed_mass() const {
  MissedMass all;
  for (const auto& unit : parts_->units) {
    if (!unit->rehearsal) continue;
    all.sum += unit->rehearsal->missed().sum;
    all.heads += unit->rehearsal->missed().heads;
  }
  return all;
}

ExpertCounts Engine::expert_counts(bool prompt) const {
  ExpertCounts sum;
  for (const auto& unit : parts_->units) {
    if (unit->expert_feed) sum += unit->expert_feed->counts(prompt);
  }
  return sum;
}

}  // namespace spillway

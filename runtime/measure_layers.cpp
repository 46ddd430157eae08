#include "runtime/measure_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/check.h"
#include "memory/arena.h"
#include "runtime/compute_unit.h"
#include "runtime/machine_cache.h"
#include "runtime/measure.h"
#include "runtime/other_load.h"
#include "runtime/planner.h"
#include "runtime/weight_units.h"

namespace spillway {
namespace {

constexpr uint64_t kNoLimit = uint64_t{1} << 40;
constexpr int kMostChunk = 512;  // rows; with more, a row takes no less
constexpr int kSteps = 4;        // of decode, from an empty cache
constexpr double kDecodeSeconds = 0.25, kHeadSeconds = 0.15, kChunkSeconds = 0.5, kRowsSeconds = 0.1;
// Between a step and a chunk. The head of as many as its logits do not take much memory for.
constexpr int kRows[] = {2, 4, 8, 16, 64, 256};
constexpr int kMostHeadRows = 16;

uint64_t bytes_of(const LayerTensors& layer) {
  uint64_t bytes = 0;
  for (const TensorInfo* matrix :
       {&layer.q, &layer.k, &layer.v, &layer.attn_out, &layer.router, &layer.gate, &layer.up, &layer.down}) {
    bytes += row_bytes(matrix->dtype, matrix->cols) * static_cast<uint64_t>(matrix->rows);
  }
  for (const ExpertMatrix* matrix : {&layer.expert_gate, &layer.expert_up, &layer.expert_down}) {
    bytes += row_bytes(matrix->dtype, matrix->cols) * static_cast<uint64_t>(matrix->rows) * matrix->extents.size();
  }
  return bytes;
}

// As many layers as `wanted` bytes are, at least one.
int layers_of(const ModelSpec& spec, uint64_t wanted) {
  int count = 0;
  for (uint64_t bytes = 0; count < spec.shape.layers && bytes < wanted; ++count) bytes += bytes_of(spec.layers[count]);
  return count;
}

// Rows of a chunk, within the positions that the model has: learned ones end there.
int chunk_of(const ModelSpec& spec, int chunk) { return std::min({chunk, kMostChunk, spec.shape.context}); }

// What distinguishes models whose layers take the same time: shapes and types, and the chunk's rows.
std::string key_of(const ModelSpec& spec, int chunk) {
  const ModelShape& s = spec.shape;
  std::string key = fmt::format(
      "{} {} layers of {}, {}/{} heads of {}, {} wide, {} x {} experts, {} tokens, chunks of {}:", spec.family,
      s.layers, s.hidden, s.heads, s.kv_heads, s.head_dim, s.ffn, s.experts, s.experts_used, s.vocab,
      chunk_of(spec, chunk));
  const LayerTensors& layer = spec.layers.front();
  for (const TensorInfo* matrix : {&layer.q, &layer.v, &layer.attn_out, &layer.gate, &layer.down, &spec.output}) {
    key += fmt::format(" {}", matrix->cols > 0 ? info(matrix->dtype).name : "-");
  }
  return key;
}

// The least of several; as long as they take, but twice at least.
template <typename Run>
double least_seconds(double seconds, const Run& run) {
  double least = 1e9, all = 0;
  for (int i = 0; i < 2 || (all < seconds && i < 64); ++i) {
    const double start = seconds_now();
    run();
    const double took = seconds_now() - start;
    least = std::min(least, took);
    all += took;
    if (all > 4 * seconds) break;
  }
  return least;
}

// All of the stretch on the device, with room for a prompt of a few chunks.
class Stretch {
 public:
  Stretch(const Model& model, const Options& options, Device& device, const Plan& plan)
      : vocab_(model.spec.shape.vocab),
        steps_(std::min(kSteps, model.spec.shape.context)),
        plan_(plan),
        arena_(device, Tier::device, plan.tier(Tier::device).total() - plan.tier(Tier::device).process),
        host_arena_(device, Tier::host, plan.tier(Tier::host).total() - plan.tier(Tier::host).process),
        unit_({model, options, plan, device, arena_, host_arena_, nullptr, traffic_}) {
    unit_.load(model, traffic_, {});
    unit_.compute->synchronize();
  }
  ~Stretch() {
    unit_.end_feeds();
    unit_.drain();
  }

  LayerTimes measure(int layers) {
    LayerTimes times{.layers = layers, .chunk = plan_.chunk};
    prompt(1);  // first touches
    times.decode_s = decode(kDecodeSeconds, 0);
    times.head_s = std::max(0.0, decode(kHeadSeconds, 1) - times.decode_s);
    times.chunk_s = least_seconds(kChunkSeconds, [&] { prompt(1); });
    for (const int rows : kRows) {
      if (rows >= plan_.chunk) break;
      const double layers_s = of_rows(rows, 0);
      times.rows_s[rows] = layers_s;
      if (rows > plan_.logit_rows) continue;
      const double head_s = of_rows(rows, rows) - layers_s;
      if (head_s > 0) times.head_rows_s[rows] = head_s;
    }
    return times;
  }

 private:
  void pass(SequenceId sequence, int rows, bool decode, int logit_rows) {
    std::vector<int32_t> tokens(static_cast<size_t>(rows));  // of all kinds: experts are chosen by them
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % static_cast<uint64_t>(vocab_));
    const PassPart part{.sequence = sequence, .tokens = tokens, .decode = decode, .logit_rows = logit_rows};
    unit_.pass->run({.parts = {&part, 1}, .any_kernel = true, .choice = nullptr, .next = {}}, {}, [](int, View) {});
  }
  void prompt(int chunks) {
    const SequenceId sequence = unit_.kv->open();
    for (int i = 0; i < chunks; ++i) pass(sequence, plan_.chunk, false, 0);
    unit_.compute->synchronize();
    unit_.kv->close(sequence, unit_.compute->record());
  }
  // Seconds of so many rows at the beginning of a sequence. Rows of as many sequences are multiplied by the same
  // kernels.
  double of_rows(int rows, int logit_rows) {
    return least_seconds(kRowsSeconds, [&] {
      const SequenceId sequence = unit_.kv->open();
      pass(sequence, rows, false, logit_rows);
      unit_.compute->synchronize();
      unit_.kv->close(sequence, unit_.compute->record());
    });
  }
  // Seconds of a step at the beginning of a sequence.
  double decode(double seconds, int logit_rows) {
    return least_seconds(seconds,
                         [&] {
                           const SequenceId sequence = unit_.kv->open();
                           for (int i = 0; i < steps_; ++i) {
                             pass(sequence, 1, true, logit_rows);
                             unit_.compute->synchronize();
                           }
                           unit_.kv->close(sequence, unit_.compute->record());
                         }) /
           steps_;
  }

  int vocab_, steps_;
  std::mt19937_64 random_{1};
  const Plan& plan_;
  Traffic traffic_;
  Arena arena_, host_arena_;
  ComputeUnit unit_;
};

}  // namespace

std::optional<LayerTimes> measure_layers(const Model& model, const Options& options, Device& device,
                                         uint64_t most_bytes) {
  Options own = options;
  own.device_bytes = kNoLimit;
  own.host_bytes.reset();
  if (!device.host_addressable()) own.host_bytes = kNoLimit;
  own.disk_bytes = 0;
  own.link_bytes_per_second = 0;
  own.kv_codec = KvCodec::f16;
  own.selection = {};
  own.sequences = own.batch = 1;
  own.positions = 0;
  own.logit_rows = kMostHeadRows;
  own.chunk = chunk_of(model.spec, options.chunk);
  own.context = std::max(own.chunk, kPageTokens);
  for (int layers = layers_of(model.spec, measuring_set(device, kNoLimit)); layers > 0; layers /= 2) {
    const ModelSpec spec = model.spec.stretch(0, layers, true);
    const PlanInput input{.options = own,
                          .spec = spec,
                          .checkpoint = model.checkpoint,
                          .device = device,
                          .ops = device.ops(),
                          .limits = {}};
    const std::optional<Plan> plan = plan_unit(input);
    if (!plan) return std::nullopt;
    const uint64_t needed = plan->tier(Tier::device).total() + plan->tier(Tier::host).total();
    if (needed > std::min(most_bytes, device.free_bytes() / 2)) continue;
    return Stretch(model, own, device, *plan).measure(layers);
  }
  return std::nullopt;
}

std::optional<LayerTimes> layer_times(const Model& model, const Options& options, Device& device,
                                      const Machine& machine, const LayerWishes& wishes) {
  const std::string key =
      fmt::format("{} | {} cores | {} | {} | {} | {} threads | {}", machine.processor, machine.cores, machine.kernel,
                  SPILLWAY_VERSION, machine.device, machine.threads, key_of(model.spec, options.chunk));
  MachineCache cache(wishes.cache_file);
  const std::optional<LayerTimes> known = wishes.refresh ? std::nullopt : cache.layers(key);
  if (known && !doubtful(known->conditions, kMostOthers)) return known;
  if (!wishes.measure) return known;
  wishes.progress(known ? "measuring layers of this model again, for others were computing: a few seconds"
                        : "measuring layers of this model: a few seconds, once");
  const OtherLoad others;
  std::optional<LayerTimes> times = measure_layers(model, options, device, wishes.most_bytes);
  if (!times && known) return known;
  if (!times) {
    wishes.progress("a layer does not fit where it could be measured: speeds are expected from large matrices'");
    return times;
  }
  wishes.progress(fmt::format("{} layers: {:.2f} ms a step, {:.2f} ms of the head, {:.1f} ms a chunk of {}",
                              times->layers, 1e3 * times->decode_s, 1e3 * times->head_s, 1e3 * times->chunk_s,
                              times->chunk));
  times->conditions = {.others = others.share()};
  if (known) times = better_of(*known, *times);
  say_conditions(times->conditions, kMostOthers, wishes.progress);
  cache.put(key, *times);
  try {
    cache.save();
  } catch (const Error& error) {
    wishes.progress(fmt::format("the measurements cannot be kept: {}", error.what()));
  }
  return times;
}

}  // namespace spillway

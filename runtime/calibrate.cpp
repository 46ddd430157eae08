#include "runtime/calibrate.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <optional>
#include <utility>

#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "runtime/fingerprint.h"
#include "runtime/skew_solver.h"
#include "runtime/skew_writer.h"

namespace spillway {
namespace {

constexpr size_t kLeastWindow = 256;  // of what is left of the text behind the last whole window

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The text as windows of tokens, each from position 0 on.
struct Windows {
  std::vector<std::vector<int32_t>> ids;
  int context = 0;
  int tokens = 0;
};

std::vector<int32_t> encode(const CalibrateParts& parts) {
  if (!parts.text.ids.empty()) return parts.text.ids;
  if (parts.model.tokenizer == nullptr) {
    throw Error(ErrorKind::model,
                fmt::format("{}: the model brings no tokenizer, without which no text can be calibrated on",
                            parts.model.checkpoint.path()));
  }
  return parts.model.tokenizer->encode(parts.text.text, false);
}

std::string hash_of(const CalibrationText& text) {
  const bool typed = text.ids.empty();
  const void* data = typed ? static_cast<const void*>(text.text.data()) : text.ids.data();
  return fmt::format("{:016x}", XXH3_64bits(data, typed ? text.text.size() : text.ids.size() * sizeof(int32_t)));
}

// As many positions as can be calibrated: by the text, and by what is asked for.
int context_for(const CalibrateOptions& options, const Model& model, size_t tokens) {
  const int most = static_cast<int>(std::min<size_t>(tokens, INT32_MAX));
  if (options.context == 0) return std::min({most, options.window, model.spec.shape.context});
  if (options.context <= most) return options.context;
  throw Error(
      ErrorKind::usage,
      fmt::format("{} has {} tokens, fewer than the {} positions to calibrate (-c): a longer text (-f) is needed",
                  "the text", tokens, options.context));
}

// Windows of at most `window` positions from the text's beginning on. A longer context adds one such window, of the
// text's end: what long windows gather alone foretells worse where less has been read.
Windows cut(const CalibrateParts& parts, const CalibrateOptions& options) {
  const std::vector<int32_t> ids = encode(parts);
  Windows windows;
  windows.context = context_for(options, parts.model, ids.size());
  if (windows.context < 2) throw Error(ErrorKind::usage, "the text to calibrate on has fewer than 2 tokens");
  const int32_t bos = parts.model.tokenizer ? parts.model.tokenizer->bos() : -1;
  const bool add_bos = bos >= 0 && ids.front() == bos;
  const auto add = [&](size_t begin, size_t size) {
    std::vector<int32_t>& window = windows.ids.emplace_back(ids.begin() + begin, ids.begin() + begin + size);
    if (add_bos) window.front() = bos;
    windows.tokens += static_cast<int>(size);
  };
  const size_t most = std::min<size_t>(ids.size(), options.most_tokens);
  const size_t usual = std::min(windows.context, options.window);
  for (size_t begin = 0; begin < most; begin += usual) {
    const size_t size = std::min(usual, most - begin);
    if (size < std::min(kLeastWindow, usual)) break;
    add(begin, size);
  }
  const auto longest = static_cast<size_t>(windows.context);
  if (longest > usual) add(ids.size() - longest, longest);
  return windows;
}

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw Error(ErrorKind::io, fmt::format("{}: cannot be made: {}", folder.string(), error.message()));
}

// Layers in groups whose sums fit the memory.
std::vector<std::vector<int>> group_layers(int layers, uint64_t bytes_each, uint64_t memory) {
  const auto at_once = static_cast<int>(std::clamp<uint64_t>(memory / std::max<uint64_t>(bytes_each, 1), 1, layers));
  const int count = (layers + at_once - 1) / at_once;
  std::vector<std::vector<int>> groups(count);
  for (int layer = 0; layer < layers; ++layer) groups[layer / at_once].push_back(layer);
  return groups;
}

class Calibration {
 public:
  Calibration(const CalibrateParts& parts, const CalibrateOptions& options, const CalibrateHooks& hooks)
      : parts_(parts), options_(options), hooks_(hooks), windows_(cut(parts, options)) {}

  CalibrationReport run(const std::string& path) {
    report_.path = path;
    make_folder(std::filesystem::path(path).parent_path());
    report_.context = windows_.context;
    report_.tokens = windows_.tokens;
    const auto groups = divide();
    make_engine();
    say();
    SkewWriter file(path, parts_.model.spec, facts(), groups);
    for (const auto& group : groups) gather(group, file);
    file.commit();
    return report_;
  }

 private:
  // Threads that solve, a layer each.
  uint64_t threads() const { return std::max(1, parts_.device.cpu ? parts_.device.cpu->workers() : workers()); }
  int workers() const { return parts_.device.device->kind() == DeviceKind::cpu ? parts_.device.device->workers() : 4; }

  Skew facts() const {
    Skew skew;
    skew.fingerprint = spillway::fingerprint(parts_.model.checkpoint);
    skew.text_name = parts_.text.name;
    skew.text_hash = hash_of(parts_.text);
    skew.context = windows_.context;
    skew.ahead = options_.ahead;
    skew.guess = options_.guess;
    return skew;
  }

  // Layers in groups, within the memory that there is: of a budget half is the model's.
  std::vector<std::vector<int>> divide() {
    const ModelSpec& spec = parts_.model.spec;
    shape_ = {.ahead = options_.ahead,
              .ridge = options_.guess == QueryGuess::ridge,
              .chunk = std::min(parts_.options.chunk, windows_.context),
              .tokens = windows_.tokens,
              .threads = parts_.options.threads};
    const auto& budget = on_host() ? parts_.options.device_bytes : parts_.options.host_bytes;
    memory_ = budget ? std::min(options_.memory, *budget / 2) : options_.memory;
    const uint64_t each = CalibrationSums::bytes(spec, shape_), solving = threads() * solving_bytes(spec.shape);
    auto groups = group_layers(spec.shape.layers, each, memory_ - std::min(solving, memory_ / 2));
    report_.prefills = static_cast<int>(groups.size());
    report_.memory = each * groups.front().size() + (shape_.ridge ? solving : 0);
    return groups;
  }

  bool on_host() const { return parts_.device.device->host_addressable(); }

  void make_engine() {
    Options options = parts_.options;
    options.context = windows_.context;
    options.sequences = options.batch = 1;
    options.positions = 0;
    options.logit_rows = 1;
    options.chunk = shape_.chunk;
    options.kv_codec = KvCodec::f16;
    options.selection = {};
    // What the sums and solving take is no more the engine's: of a budget, or of what is free.
    auto& budget = on_host() ? options.device_bytes : options.host_bytes;
    const uint64_t free = on_host() ? parts_.device.device->free_bytes() : free_memory_bytes();
    if (!budget) budget = free - free / 8;
    *budget -= std::min(report_.memory, *budget);
    Plan plan = plan_session(parts_.model, options, parts_.device, parts_.limits);
    SPILLWAY_CHECK(plan.chunk <= shape_.chunk);
    engine_.emplace(parts_.model, options, std::move(plan),
                    EngineDevices(*parts_.device.device, parts_.device.cpu.get()), OnProgress{});
  }

  void say() const {
    if (!hooks_.said) return;
    const size_t usual = windows_.ids.front().size(), longest = windows_.context;
    std::string line = fmt::format(
        "calibrating on {} tokens of {} in windows of {}; {} beside the model", windows_.tokens, parts_.text.name,
        longest > usual ? fmt::format("{} and one of {}", usual, longest) : fmt::to_string(longest),
        format_bytes(report_.memory));
    if (report_.prefills > 1) {
      line += fmt::format(", to stay within {} the text is read {} times", format_bytes(memory_), report_.prefills);
    }
    hooks_.said(line);
  }

  void gather(const std::vector<int>& layers, SkewWriter& file) {
    const double begin = now();
    CalibrationSums sums(parts_.model.spec, shape_, layers, *parts_.device.device);
    engine_->set_observer(&sums);
    const auto total = static_cast<uint64_t>(windows_.tokens) * report_.prefills;
    for (const auto& window : windows_.ids) {
      const SequenceId sequence = engine_->open_sequence();
      engine_->prefill(sequence, window, 0, false, {}, [&](uint64_t done, uint64_t) {
        if (hooks_.on_prefill) hooks_.on_prefill(prefilled_ + done, total);
      });
      engine_->close_sequence(sequence);
      prefilled_ += window.size();
    }
    engine_->set_observer(nullptr);
    const double gathered = now();
    report_.prefill_s += gathered - begin;
    solve(sums, file);
    report_.solve_s += now() - gathered;
  }

  void report(const SolvedLayer& layer) {
    if (layer.ridge_error == 0) return;
    if (report_.least_strength == 0) report_.least_strength = layer.strength;
    report_.least_strength = std::min(report_.least_strength, layer.strength);
    report_.most_strength = std::max(report_.most_strength, layer.strength);
    const int layers = parts_.model.spec.shape.layers - options_.ahead;
    report_.gain_error += layer.gain_error / layers;
    report_.ridge_error += layer.ridge_error / layers;
  }

  void solve(CalibrationSums& sums, SkewWriter& file) {
    const size_t layers = sums.layers().size();
    std::vector<std::future<SolvedLayer>> tasks;
    for (size_t first = 0; first < layers; first += threads()) {
      tasks.clear();
      for (size_t i = first; i < std::min(layers, first + threads()); ++i) {
        tasks.push_back(
            std::async(std::launch::async, [&, i] { return solve_layer(parts_.model, sums.layers()[i], sums.of(i)); }));
      }
      for (auto& task : tasks) {
        const SolvedLayer layer = task.get();
        file.add(layer);
        report(layer);
      }
    }
  }

  const CalibrateParts& parts_;
  const CalibrateOptions& options_;
  const CalibrateHooks& hooks_;
  Windows windows_;
  CalibrationShape shape_;
  CalibrationReport report_;
  std::optional<Engine> engine_;
  uint64_t memory_ = 0;  // for sums and solving
  uint64_t prefilled_ = 0;
};

// What is kept; nothing where there is none, or none that can be read, which is said.
std::optional<Skew> find(const CalibrateParts& parts, const std::string& path, const std::string& fingerprint,
                         const CalibrateHooks& hooks) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    return open_skew(path, parts.model.spec, fingerprint);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;
    if (hooks.said) hooks.said(fmt::format("{}: it is made anew", error.what()));
    return {};
  }
}

}  // namespace

CalibrationReport calibrate(const CalibrateParts& parts, const CalibrateOptions& options, const std::string& path,
                            const CalibrateHooks& hooks) {
  return Calibration(parts, options, hooks).run(path);
}

Skew load_or_calibrate(const CalibrateParts& parts, const CalibrateOptions& options, const std::string& folder,
                       const CalibrateHooks& hooks) {
  const std::string fingerprint = spillway::fingerprint(parts.model.checkpoint);
  const std::string path = skew_path(folder, fingerprint, options.ahead);
  std::optional<Skew> kept = find(parts, path, fingerprint, hooks);
  if (kept && kept->context >= options.context) return std::move(*kept);
  CalibrateOptions wanted = options;
  const size_t tokens = encode(parts).size();
  if (options.context > 0 && tokens < static_cast<size_t>(options.context)) {
    wanted.context = static_cast<int>(tokens);
    if (kept && kept->context >= wanted.context) return std::move(*kept);
  }
  if (kept) wanted.guess = kept->guess;  // as it was asked for before
  if (hooks.said) {
    hooks.said(
        !kept ? fmt::format("no skew of this model is kept yet: making it ({})", path)
              : fmt::format("{} was made for {} positions: making it for {}", path, kept->context, wanted.context));
  }
  try {
    calibrate(parts, wanted, path, hooks);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::fit) throw;
    throw Error(ErrorKind::fit,
                fmt::format("making the model's skew: {}; or run spillway calibrate before, with a larger "
                            "budget: it is kept",
                            error.what()));
  }
  return open_skew(path, parts.model.spec, fingerprint);
}

}  // namespace spillway

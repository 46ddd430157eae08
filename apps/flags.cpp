#include "apps/flags.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <random>

#include "apps/environment.h"
#include "apps/interrupt.h"
#include "apps/units.h"
#include "kernels/check.h"
#include "kernels/cpu/free_memory.h"
#include "memory/format_bytes.h"
#include "memory/kv/layout.h"
#include "runtime/batch_plan.h"
#include "runtime/free_disk.h"

namespace spillway {
namespace {

constexpr double kMostContext = 1 << 28;

}  // namespace

CLI::Validator within(double low, double high) {
  const auto check = [low, high](std::string& text) -> std::string {
    double value = 0;
    if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value))
      return fmt::format("'{}' is not a number", text);
    if (value < low) return fmt::format("{} is less than {}", text, low);
    if (value > high) return fmt::format("{} is more than {}", text, high);
    return "";
  };
  return CLI::Validator(check, "");
}

CLI::Option* with_twin(CLI::Option* option) {
  std::string twin = "SPILLWAY_" + (option->get_lnames().empty() ? option->get_snames() : option->get_lnames()).front();
  for (char& c : twin) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return option->envname(twin);
}

CLI::Option* add_flag(CLI::App& command, const std::string& name, bool& value, const std::string& text) {
  const std::string opposite = name.starts_with("--no-") ? "--" + name.substr(5) : "--no-" + name.substr(2);
  return with_twin(command.add_flag(name + ",!" + opposite, value, text));
}

std::string read_text_file(const std::string& flag, const std::string& path, size_t most_bytes) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    throw Error(ErrorKind::usage, fmt::format("{} {}: is a directory", flag, path));
  const InterruptsEnd waiting;  // it may be a pipe
  std::ifstream in(path, std::ios::binary);
  std::string text;
  if (!in) throw Error(ErrorKind::usage, fmt::format("{} {}: {}", flag, path, std::strerror(errno)));
  for (std::istreambuf_iterator<char> at(in), end; at != end; ++at) {
    if (text.size() == most_bytes) {
      throw Error(ErrorKind::usage, fmt::format("{} {}: more than {} bytes", flag, path, most_bytes));
    }
    text.push_back(*at);
  }
  if (in.bad()) throw Error(ErrorKind::usage, fmt::format("{} {}: {}", flag, path, std::strerror(errno)));
  return text;
}

std::string model_path(const std::string& given) {
  if (!given.empty()) return given;
  std::string fetched = default_model();
  // One that cannot be looked at is there: opening it says what is wrong.
  std::error_code ignored;
  if (std::filesystem::status(fetched, ignored).type() == std::filesystem::file_type::not_found) {
    throw Error(ErrorKind::model,
                fmt::format("no model given (-m), and there is no {}, which scripts/fetch-model.sh fetches", fetched));
  }
  return fetched;
}

void RunFlags::add(CLI::App& command, Runs runs) {
  command_ = &command;
  const std::string budgets = "Budgets", running = "Running", reports = "Reports";
  add_option(
      command, "-m,--model", model,
      "GGUF file (a split one by its first part), or Hugging Face model directory (default: the model the set-up "
      "fetched)")
      ->type_name("FILE");
  add_option(command, "-c,--ctx-size", options.context,
             "Positions of context, in whole pages of 64; 0: what the command needs")
      ->check(within(0, kMostContext))
      ->group(running);
  add_option(command, "--ubatch-size,--ub,-b,--batch-size", options.chunk, "Prompt tokens computed together (-ub)")
      ->check(within(1, kMostContext))
      ->capture_default_str()
      ->group(running);
  add_option(command, "-t,--threads", options.threads, "Compute threads; 0: one for each physical core")
      ->check(within(0, 4096))
      ->group(running);
  add_option(command, "--device", device, "Unit that computes (cuda:N: the N-th GPU, from 0)")
      ->type_name("auto|cuda|cuda:N|cpu|reference")
      ->capture_default_str()
      ->group(running);
  add_option(command, "--cuda-module", options.cuda.module, "File of the CUDA module (default: where it is installed)")
      ->type_name("FILE")
      ->group(running);
  add_flag(command, "--cuda-graphs", options.cuda.graphs,
           "Replay the layers of decode steps as CUDA graphs (default: on)")
      ->group(running);
  add_option(command, "--isa", isa, "CPU kernels")
      ->type_name("auto|scalar|avx2|avx512")
      ->capture_default_str()
      ->group(running);
  if (runs != Runs::prompts) add_policy(command);
  add_option(
      command, "--gpu-layers,--ngl", gpu_layers,
      "Layers that the device computes, the last ones (-ngl); the CPU computes the others in host memory: a number, "
      "all, auto (default: what is fastest beside a GPU)")
      ->type_name("N|all|auto")
      ->group(running);
  add_option(command, "--lookahead", options.lookahead, "Streamed pieces fetched ahead; 0: as many as the ring holds")
      ->check(within(0))
      ->group(running);
  add_option(command, "--device-mem", device_mem,
             "Device memory to use: 6GiB, 800MiB, 80% (default: most of what is free)")
      ->group(budgets);
  add_option(command, "--host-mem", host_mem,
             "Host memory to use beside the device; on a CPU this emulates a GPU's tiers")
      ->group(budgets);
  add_kv_budget(command);
  add_option(command, "--disk-mem", disk_mem, "Disk space for KV that fits nowhere else (default: none)")
      ->group(budgets);
  add_option(command, "--disk-dir", options.disk_directory, "Folder of that space (default: the cache folder)")
      ->type_name("FOLDER")
      ->group(budgets);
  add_option(command, "--link-gbps", link_gbps, "Emulate a link of so many GB/s between host and device memory")
      ->check(within(0))
      ->group(budgets);
  add_option(command, "--plan", plan,
             "Take the plan in this file (spillway plan -o); refused where model, machine or budgets no longer fit it")
      ->type_name("FILE")
      ->group(budgets);
  if (runs == Runs::model) {
    add_option(command, "--trace", trace, "Write a Chrome/Perfetto trace of every stream to this file")
        ->type_name("FILE")
        ->group(reports);
    add_flag(command, "--stats", stats, "Say speeds, bytes by link, and shares of the limits")->group(reports);
  }
  add_flag(command, "--json", json, "One JSON object on standard output")->group(reports);
  with_twin(command.add_flag("-v,--verbose", verbosity, "Say more: the plan as a table"))->group(reports);
  add_flag(command, "--no-color", no_color, "No colour on standard error (NO_COLOR is honoured too)")->group(reports);
  add_flag(command, "--refresh", options.refresh_machine, "Measure the machine's limits again")->group(reports);
}

void RunFlags::add_policy(CLI::App& command) {
  const std::string running = "Running";
  const auto of_llama_cpp = [](std::string& name) -> std::string {  // its -ctk f16, f32
    if (name == "f16" || name == "f32") name.insert(1, "p");
    return "";
  };
  add_option(command, "--kv-type", kv_type, "How KV is kept: in half or single precision, or full pages packed")
      ->type_name("fp16|fp32|q8|q4|kivi4|kivi2")
      ->transform(CLI::Validator(of_llama_cpp, ""))
      ->capture_default_str()
      ->group(running);
  add_option(command, "--kv-edge-layers", options.kv_edge_layers,
             "First and last layers whose KV stays fp16, so many of each")
      ->check(within(0, kMostContext))
      ->capture_default_str()
      ->group(running);
  selection.add(command);
}

void RunFlags::add_kv_budget(CLI::App& command) {
  add_option(command, "--kv-device-mem", kv_device_mem,
             "Of the device memory, the most that the KV takes (default: what is fastest)")
      ->group("Budgets");
}

namespace {

template <typename T>
T one_of(const std::string& flag, const std::string& text, const std::map<std::string, T>& known) {
  const auto found = known.find(text);
  if (found != known.end()) return found->second;
  std::string names;
  for (const auto& [name, value] : known) names += (names.empty() ? "" : ", ") + name;
  throw Error(ErrorKind::usage, fmt::format("{}: \"{}\" is not one of {}", flag, text, names));
}

int device_number(const std::string& text) {
  int number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc{} || end != text.data() + text.size() || number < 0) {
    throw Error(ErrorKind::usage, fmt::format("--device cuda:{}: no number of a device", text));
  }
  return number;
}

// Nothing: whatever is fastest.
std::optional<int> layer_count(const std::string& text) {
  if (text == "auto") return std::nullopt;
  if (text == "all") return std::numeric_limits<int>::max();
  int count = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (problem != std::errc{} || end != text.data() + text.size() || count < 0) {
    throw Error(ErrorKind::usage, fmt::format("-ngl {}: a number of layers, all or auto is wanted", text));
  }
  return count;
}

void refuse_no_folder(const std::string& flag, const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status found = std::filesystem::status(path, error);
  if (found.type() == std::filesystem::file_type::directory) return;
  const std::string what = found.type() == std::filesystem::file_type::not_found ? "no such folder"
                           : error                                               ? error.message()
                                                                                 : "not a folder";
  throw Error(ErrorKind::usage, fmt::format("{} {}: {}", flag, path, what));
}

}  // namespace

void RunFlags::resolve_disk(Options& result) const {
  if (!disk_mem) return;
  if (result.disk_directory.empty()) {
    result.disk_directory = xdg_of_this_user().cache();
  } else {
    refuse_no_folder("--disk-dir", result.disk_directory);
  }
  result.disk_bytes = parse_bytes("--disk-mem", *disk_mem, free_disk_bytes(result.disk_directory));
}

void RunFlags::share(int parallel, int positions) {
  if (!plan.empty()) throw Error(ErrorKind::usage, "--parallel: not of a plan from a file (--plan)");
  const auto own = align_up(static_cast<uint64_t>(std::max(positions, options.context)), kPageTokens);
  options = batch_options(options, {.positions = static_cast<int>(own)}, parallel);
}

Options RunFlags::resolve() const {
  Options result = options;
  result.model_path = model_path(model.value_or(""));
  resolve_disk(result);
  result.link_bytes_per_second = link_gbps * 1e9;
  const bool numbered = device.starts_with("cuda:");
  if (numbered) result.cuda.device = device_number(device.substr(5));
  result.device = one_of<DeviceChoice>("--device", numbered ? "cuda" : device,
                                       {{"auto", DeviceChoice::automatic},
                                        {"cpu", DeviceChoice::cpu},
                                        {"reference", DeviceChoice::reference},
                                        {"cuda", DeviceChoice::cuda}});
  result.device_layers = layer_count(gpu_layers);
  result.isa = one_of<CpuIsa>(
      "--isa", isa,
      {{"auto", CpuIsa::best}, {"scalar", CpuIsa::scalar}, {"avx2", CpuIsa::avx2}, {"avx512", CpuIsa::avx512}});
  std::map<std::string, KvCodec> codecs;
  for (const KvCodec codec : kAllKvCodecs) codecs[info(codec).name] = codec;
  result.kv_codec = one_of<KvCodec>("--kv-type", kv_type, codecs);
  selection.resolve(result);
  if (result.link_bytes_per_second > 0 && !host_mem && plan.empty()) {
    throw Error(ErrorKind::usage, "--link-gbps emulates the link between host and device memory: it needs --host-mem");
  }
  return result;
}

std::vector<std::string> RunFlags::resolve_budgets(Options& result, const Device& on) const {
  std::vector<std::string> said;
  const auto resolve_one = [&](const char* flag, const std::string& text, uint64_t free) {
    const uint64_t bytes = parse_bytes(flag, text, free);
    if (bytes > free) {
      said.push_back(
          fmt::format("{} {} is more than the {} that this machine has free, which the plan must fit all the same",
                      flag, text, format_bytes(free)));
    }
    return bytes;
  };
  if (device_mem) result.device_bytes = resolve_one("--device-mem", *device_mem, on.free_bytes());
  if (kv_device_mem) {
    result.kv_device_bytes = resolve_one("--kv-device-mem", *kv_device_mem, on.free_bytes());
  }
  if (host_mem) result.host_bytes = resolve_one("--host-mem", *host_mem, free_memory_bytes());
  return said;
}

void SamplingFlags::add(CLI::App& command) {
  const std::string group = "Sampling";
  add_option(command, "--temp", options.temp, "Temperature; 0: greedy")
      ->check(within(0))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--top-k", options.top_k, "Keep the k likeliest; 0: all")
      ->check(within(0))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--top-p", options.top_p, "Keep the likeliest that hold this share")
      ->check(within(0, 1))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--min-p", options.min_p, "Keep at least this share of the likeliest's probability")
      ->check(within(0, 1))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--repeat-penalty", options.repeat_penalty, "Penalise tokens seen lately; 1: off")
      ->check(within(1e-6))
      ->capture_default_str()
      ->group(group);
  add_option(command, "--repeat-last-n", options.repeat_last_n, "How many tokens count as lately; -1: all")
      ->check(within(-1))
      ->capture_default_str()
      ->group(group);
  add_option(command, "-s,--seed", seed, "Same seed, same text; -1: a new one each time")
      ->capture_default_str()
      ->group(group);
  add_flag(command, "--ignore-eos", ignore_end, "Go on past the model's end tokens")->group(group);
  add_option(command, "--stop", stops, "Stop before this text (repeatable)")
      ->allow_extra_args(false)
      ->check(CLI::Validator(
          [](const std::string& text) { return text.empty() ? "an empty text would stop at once" : std::string(); },
          ""))
      ->group(group);
}

SamplingOptions SamplingFlags::resolve() const {
  SamplingOptions result = options;
  result.seed = seed >= 0 ? static_cast<uint64_t>(seed) : std::random_device{}();
  return result;
}

void TextFlags::add(CLI::App& command, const std::string& what) {
  text_option = add_option(command, "-p,--prompt", text, what);
  file_option = add_option(command, "-f,--file", file, "Read it from this file (-: standard input)")->type_name("FILE");
}

bool TextFlags::given() const { return !text_option->empty() || !file_option->empty(); }

std::string TextFlags::read() const {
  const auto typed = [](const CLI::Option* option) {  // on the command line, not only in the environment
    const char* twin = std::getenv(option->get_envname().c_str());
    return !option->empty() && (twin == nullptr || option->as<std::string>() != twin);
  };
  if (typed(text_option) && typed(file_option)) throw Error(ErrorKind::usage, "-p and -f are two texts: one is wanted");
  if (!text_option->empty() && !typed(file_option)) return text;
  if (!file.empty() && file != "-") return read_text_file("-f", file);
  if (file.empty() && isatty(STDIN_FILENO) != 0) {
    throw Error(ErrorKind::usage, "no text given: -p TEXT, -f FILE, or standard input");
  }
  const InterruptsEnd waiting;
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

}  // namespace spillway

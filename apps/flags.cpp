#include "apps/flags.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <random>

#include <fmt/format.h>

#include "apps/environment.h"
#include "apps/units.h"
#include "kernels/check.h"

namespace spillway {

void RunFlags::add(CLI::App& command) {
  const std::string budgets = "Budgets", running = "Running", reports = "Reports";
  add_option(command, "-m,--model", model, "GGUF file; a split one by its first part (default: the model the set-up fetched)");
  add_option(command, "-c,--ctx-size", options.context, "Positions of context; 0: what the command needs")
      ->check(CLI::NonNegativeNumber)->group(running);
  add_option(command, "--ubatch-size,--ub,-b,--batch-size", options.chunk, "Prompt tokens computed together (-ub)")
      ->check(CLI::PositiveNumber)->capture_default_str()->group(running);
  add_option(command, "-t,--threads", options.threads, "Compute threads; 0: one for each physical core")
      ->check(CLI::NonNegativeNumber)->group(running);
  add_option(command, "--device", device, "Unit that computes: auto, cpu, reference")->capture_default_str()->group(running);
  add_option(command, "--isa", isa, "CPU kernels: auto, scalar, avx2, avx512")->capture_default_str()->group(running);
  add_option(command, "--lookahead", options.lookahead, "Streamed pieces fetched ahead; 0: as many as the ring holds")
      ->check(CLI::NonNegativeNumber)->group(running);
  add_option(command, "--device-mem", device_mem, "Device memory to use: 6GiB, 800MiB, 80% (default: most of what is free)")->group(budgets);
  add_option(command, "--host-mem", host_mem, "Host memory to use beside the device; on a CPU this emulates a GPU's tiers")->group(budgets);
  add_option(command, "--disk-mem", disk_mem, "Disk space for KV that fits nowhere else (default: none)")->group(budgets);
  add_option(command, "--disk-dir", options.disk_directory, "Folder of that space (default: the cache folder)")->group(budgets);
  add_option(command, "--link-gbps", link_gbps, "Emulate a link of so many GB/s between host and device memory")
      ->check(CLI::NonNegativeNumber)->group(budgets);
  add_option(command, "--trace", trace, "Write a Chrome/Perfetto trace of every stream to this file")->group(reports);
  command.add_flag("--stats,!--no-stats", stats, "Say speeds, bytes by link, and shares of the limits")->envname("SPILLWAY_STATS")->group(reports);
  command.add_flag("--json,!--no-json", json, "One JSON object on standard output")->envname("SPILLWAY_JSON")->group(reports);
  command.add_flag("-v,--verbose", verbosity, "Say more: the plan as a table")->group(reports);
  command.add_flag("--no-color", no_color, "No colour on standard error (NO_COLOR is honoured too)")->group(reports);
  command.add_flag("--refresh", options.refresh_machine, "Measure the machine's limits again")->group(reports);
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

}  // namespace

Options RunFlags::resolve() const {
  Options result = options;
  result.model_path = model.empty() ? default_model() : model;
  const auto free = make_reference_device()->free_bytes();
  if (!device_mem.empty()) result.device_bytes = parse_bytes("--device-mem", device_mem, free);
  if (!host_mem.empty()) result.host_bytes = parse_bytes("--host-mem", host_mem, free);
  if (!disk_mem.empty()) result.disk_bytes = parse_bytes("--disk-mem", disk_mem);
  if (result.disk_directory.empty()) result.disk_directory = result.disk_bytes > 0 ? xdg_of_this_user().cache() : cache_directory();
  result.link_bytes_per_second = link_gbps * 1e9;
  result.device = one_of<DeviceChoice>("--device", device,
                                       {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu},
                                        {"reference", DeviceChoice::reference}, {"cuda", DeviceChoice::cuda}});
  result.isa = one_of<CpuIsa>("--isa", isa, {{"auto", CpuIsa::best}, {"scalar", CpuIsa::scalar}, {"avx2", CpuIsa::avx2},
                                             {"avx512", CpuIsa::avx512}});
  if (result.link_bytes_per_second > 0 && !result.host_bytes) {
    throw Error(ErrorKind::usage, "--link-gbps emulates the link between host and device memory: it needs --host-mem");
  }
  return result;
}

void SamplingFlags::add(CLI::App& command) {
  const std::string group = "Sampling";
  add_option(command, "--temp", options.temp, "Temperature; 0: greedy")->check(CLI::NonNegativeNumber)->capture_default_str()->group(group);
  add_option(command, "--top-k", options.top_k, "Keep the k likeliest; 0: all")->capture_default_str()->group(group);
  add_option(command, "--top-p", options.top_p, "Keep the likeliest that hold this share")->check(CLI::Range(0.0, 1.0))->capture_default_str()->group(group);
  add_option(command, "--min-p", options.min_p, "Keep at least this share of the likeliest's probability")->check(CLI::Range(0.0, 1.0))->capture_default_str()->group(group);
  add_option(command, "--repeat-penalty", options.repeat_penalty, "Penalise tokens seen lately; 1: off")->check(CLI::PositiveNumber)->capture_default_str()->group(group);
  add_option(command, "--repeat-last-n", options.repeat_last_n, "How many tokens count as lately; -1: all")->capture_default_str()->group(group);
  add_option(command, "-s,--seed", seed, "Same seed, same text; -1: a new one each time")->capture_default_str()->group(group);
  command.add_flag("--ignore-eos", ignore_end, "Go on past the model's end tokens")->envname("SPILLWAY_IGNORE_EOS")->group(group);
  add_option(command, "--stop", stops, "Stop before this text (repeatable)")->group(group);
}

SamplingOptions SamplingFlags::resolve() const {
  SamplingOptions result = options;
  result.seed = seed >= 0 ? static_cast<uint64_t>(seed) : std::random_device{}();
  return result;
}

void TextFlags::add(CLI::App& command, const std::string& what) {
  text_option = add_option(command, "-p,--prompt", text, what);
  add_option(command, "-f,--file", file, "Read it from this file (-: standard input)")->excludes(text_option);
}

std::string TextFlags::read() const {
  if (!text_option->empty()) return text;
  const bool from_stdin = file == "-" || (file.empty() && isatty(STDIN_FILENO) == 0);
  if (file.empty() && !from_stdin) throw Error(ErrorKind::usage, "no text given: -p TEXT, -f FILE, or standard input");
  if (from_stdin) return {std::istreambuf_iterator<char>(std::cin), {}};
  std::ifstream in(file, std::ios::binary);
  std::string read{std::istreambuf_iterator<char>(in), {}};
  if (!in) throw Error(ErrorKind::usage, fmt::format("-f {}: {}", file, std::strerror(errno)));
  return read;
}

}  // namespace spillway

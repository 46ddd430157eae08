// Flags: the only place of strings. What a person types becomes the runtime's typed options here.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/selection_flags.h"
#include "runtime/options.h"
#include "runtime/sampler.h"

namespace spillway {

// What a command does with the model: one that runs nothing has nothing to trace, and prompts read all of the KV.
enum class Runs : uint8_t { nothing, prompts, model };

// Shared by all commands that run a model, or plan it.
struct RunFlags {
  std::optional<std::string> model, device_mem, kv_device_mem, host_mem, disk_mem;
  std::string device = "auto";
  std::string isa = "auto";
  std::string kv_type = "fp16";
  std::string gpu_layers = "auto";
  SelectionFlags selection;
  double link_gbps = 0;
  int verbosity = 0;
  bool stats = false;
  bool json = false;
  bool no_color = false;
  std::string trace;
  std::string plan;  // a file, to run or show; empty: a plan of one's own
  Options options;

  void add(CLI::App& command, Runs runs = Runs::model);
  // Those that say what becomes of the KV: a policy.
  void add_policy(CLI::App& command);
  // What of the device it may take for that.
  void add_kv_budget(CLI::App& command);
  // --parallel: options of so many sequences that share passes, each of as many positions as -c says, and at least
  // `positions`. Throws Error(usage) with a plan from a file.
  void share(int parallel, int positions);
  // The options but for the budgets of memory, with the strings understood. Throws Error(usage) naming the flag.
  Options resolve() const;
  // The budgets, which may be shares of what is free where the model will run. Returns a line for each that is more.
  std::vector<std::string> resolve_budgets(Options& result, const Device& on) const;
  // Whether the option of this name ("--lookahead") was, by flag or environment.
  bool given(const char* name) const { return command_ != nullptr && command_->get_option(name)->count() > 0; }

 private:
  void resolve_disk(Options& result) const;

  const CLI::App* command_ = nullptr;
};

struct SamplingFlags {
  SamplingOptions options;
  int64_t seed = -1;  // -1: a new one for each run, said with -v
  std::vector<std::string> stops;
  bool ignore_end = false;

  void add(CLI::App& command);
  SamplingOptions resolve() const;
};

// The prompt: -p TEXT, else -f FILE ("-": standard input), else standard input when it is no terminal.
struct TextFlags {
  std::string text;
  std::string file;
  CLI::Option* text_option = nullptr;
  CLI::Option* file_option = nullptr;

  void add(CLI::App& command, const std::string& what);
  bool given() const;
  std::string read() const;
};

// A number that is not below `low`, nor above `high`.
CLI::Validator within(double low, double high = 1e18);

// The environment twin of an option: --device-mem is SPILLWAY_DEVICE_MEM. The flag wins.
CLI::Option* with_twin(CLI::Option* option);

// Adds an option with its twin. Given twice, the last one counts, but for lists.
template <typename T>
CLI::Option* add_option(CLI::App& command, const std::string& names, T& value, const std::string& text) {
  CLI::Option* option = command.add_option(names, value, text);
  if (option->get_items_expected_max() <= 1) option->take_last();
  return with_twin(option);
}

// Adds --x with --no-x, or --no-x with --x, and its twin.
CLI::Option* add_flag(CLI::App& command, const std::string& name, bool& value, const std::string& text);

// The model that was given; where none was, the one that the set-up fetched. Throws Error(model) where neither is.
std::string model_path(const std::string& given);

// The whole of a file that a flag names, of at most so many bytes. Throws Error(usage) naming both.
std::string read_text_file(const std::string& flag, const std::string& path, size_t most_bytes = SIZE_MAX);

}  // namespace spillway

// Flags: the only place of strings. What a person types becomes the runtime's typed options here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "runtime/options.h"
#include "runtime/sampler.h"

namespace spillway {

// Shared by all commands that run a model.
struct RunFlags {
  std::string model;
  std::string device_mem, host_mem, disk_mem;
  std::string device = "auto";
  std::string isa = "auto";
  double link_gbps = 0;
  int verbosity = 0;
  bool stats = false;
  bool json = false;
  bool no_color = false;
  std::string trace;
  Options options;

  void add(CLI::App& command);
  // The options, with the strings understood. Throws Error(usage) naming the flag.
  Options resolve() const;
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

  void add(CLI::App& command, const std::string& what);
  std::string read() const;
};

// Adds an option with its environment twin: --device-mem is SPILLWAY_DEVICE_MEM.
template <typename T>
CLI::Option* add_option(CLI::App& command, const std::string& names, T& value, const std::string& text) {
  CLI::Option* option = command.add_option(names, value, text);
  std::string twin = "SPILLWAY_" + (option->get_lnames().empty() ? option->get_snames() : option->get_lnames()).front();
  for (char& c : twin) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return option->envname(twin);
}

}  // namespace spillway

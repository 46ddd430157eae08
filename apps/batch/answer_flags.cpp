#include "apps/batch/answer_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

namespace spillway {
namespace {

constexpr std::string_view kHarmless[] = {
    // Facts of their own: by their bytes, or as numbers.
    "--input", "--model", "--template", "--shard",
    // Where it is written, and in which order.
    "--output", "--ordered", "--retry-failed",
    // Which unit computes it, how many at once, and where bytes lie.
    "--parallel", "--threads", "--device", "--cuda-module", "--cuda-graphs", "--gpu-layers", "--lookahead",
    "--device-mem", "--host-mem", "--kv-device-mem", "--disk-mem", "--disk-dir", "--link-gbps", "--hot-set",
    // Refuses something, or is refused.
    "--exact", "--plan",
    // What is said of it, and measured.
    "--trace", "--stats", "--json", "--verbose", "--no-color", "--refresh", "--check-every", "--help"};

std::string name_of(const CLI::Option& option) {
  const auto& names = option.get_lnames();
  return names.empty() ? option.get_name() : "--" + names.front();
}

std::string value_of(const CLI::Option& option) {
  const bool flag = option.get_expected_max() == 0;
  const std::string otherwise = flag ? "false" : option.get_default_str();
  if (option.count() == 0) return otherwise;
  std::string value = fmt::format("{}", fmt::join(option.reduced_results(), " "));
  // A number without a default that is shown has 0 for "as is needed".
  return otherwise.empty() && value == "0" ? otherwise : value;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> answer_flags(const CLI::App& command) {
  std::vector<std::pair<std::string, std::string>> flags;
  for (const CLI::Option* option : command.get_options()) {
    std::string name = name_of(*option);
    if (std::find(std::begin(kHarmless), std::end(kHarmless), name) != std::end(kHarmless)) continue;
    flags.emplace_back(std::move(name), value_of(*option));
  }
  return flags;
}

std::vector<std::string> harmless_flags() { return {std::begin(kHarmless), std::end(kHarmless)}; }

}  // namespace spillway

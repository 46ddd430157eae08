// Prints what runtime/machine measures of this machine, as JSON. Nothing is read from or kept in the cache.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "perf/tool.h"
#include "runtime/machine.h"

namespace spillway {
namespace {

int run(int argc, char** argv) {
  MachineOptions options;
  options.types.assign(std::begin(kWeightTypes), std::end(kWeightTypes));
  std::string device_name = "cpu";
  uint64_t most_mib = options.most_bytes >> 20;
  CLI::App app("Measured limits of this machine, as JSON");
  app.add_option("-m,--model", options.model_path, "A file on the drive whose reads are to be measured");
  app.add_option("--disk-dir", options.disk_folder, "A folder on the drive whose writes are to be measured");
  app.add_option("-t,--threads", options.threads, "Compute threads; 0: one for each physical core")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--device", device_name, "cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--seconds", options.seconds, "That all of it may take, about")->check(CLI::Range(0.05, 600.0));
  app.add_option("--most-mib", most_mib, "Memory that measuring may take")->check(CLI::Range(16, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  options.progress = [](std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
  };
  options.most_bytes = most_mib << 20;
  const auto device = device_named(device_name, {.threads = options.threads});
  std::printf("%s\n", to_json(measure_machine(*device, options)).dump(1).c_str());
  return 0;
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) { return spillway::run_tool("limits", spillway::run, argc, argv); }

#include "perf/simulated/machine.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "loader/text/json_file.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr double kGiB = 1ull << 30;
constexpr double kMost = 1e18;  // past any machine there is

// FlexGen's own cost model (experimental/cost_model.py of its repository at 004ffef: CostModelConfig, fitted to runs on
// the very machine of its results; its GB is 2^30): ctog_bdw, gtoc_bdw_cache, dtoc_bdw, ctod_bdw_cache_p, mm_flops_p,
// and the memory it plans with. The drive is as fast as its reads through the page cache were. What a kernel reads of
// the device's memory is not in it: the board specification of the T4, up to 320 GB/s.
const GivenMachine kFitted{.name = "t4-fitted",
                           .source =
                               "one NVIDIA T4, 208 GB of host memory, 1.5 TB of NVMe, as FlexGen's cost model was "
                               "fitted to it; memory bandwidth of the board specification",
                           .device_bytes = static_cast<uint64_t>(15 * kGiB),
                           .host_bytes = static_cast<uint64_t>(204 * kGiB),
                           .disk_bytes = static_cast<uint64_t>(1500 * kGiB),
                           .link = 12.89 * kGiB,
                           .link_out = 0.97 * kGiB,
                           .disk_read = 0.473 * kGiB,
                           .disk_write = 0.746 * kGiB,
                           .device_memory = 320e9,
                           .flops = 21.24e12};

// What the makers publish, which no program reaches. NVIDIA's T4: 16 GB, up to 320 GB/s, 65 TFLOPS in half
// precision, PCIe 3.0 x16 (8 GT/s a lane, 128 of 130 bits are data). Four of Google's Local
// SSDs of 375 GB by NVMe: 2650 MB/s read and 1400 written, from memory of its table and not checked; FlexGen's
// scripts/mount_nvme_gcp.sh stripes over four.
const GivenMachine kPeaks{.name = "t4-peaks",
                          .source = "one NVIDIA T4, 208 GB of host memory, 1.5 TB of NVMe, by the data sheets' peaks",
                          .device_bytes = 16'000'000'000,
                          .host_bytes = 208'000'000'000,
                          .disk_bytes = 1'500'000'000'000,
                          .link = 15.75e9,
                          .link_out = 15.75e9,
                          .disk_read = 2.65e9,
                          .disk_write = 1.4e9,
                          .device_memory = 320e9,
                          .flops = 65e12};

class Fields {
 public:
  Fields(const json& from, const std::string& path) : from_(from), path_(path) {}
  double number(const char* name) const {
    const auto found = from_.find(name);
    const double value = found != from_.end() && found->is_number() ? found->get<double>() : 0;
    if (!(value > 0 && value < kMost)) throw Error(ErrorKind::model, fmt::format("{}: {}: {}", path_, name, kWanted));
    return value;
  }
  uint64_t bytes(const char* name) const { return static_cast<uint64_t>(number(name)); }
  std::string text(const char* name) const {
    const auto found = from_.find(name);
    if (found != from_.end() && found->is_string()) return found->get<std::string>();
    throw Error(ErrorKind::model, fmt::format("{}: {}: a text is wanted", path_, name));
  }

 private:
  static constexpr const char* kWanted = "a positive number is wanted";
  const json& from_;
  const std::string& path_;
};

}  // namespace

Limits GivenMachine::limits() const {
  return {.disk_read = disk_read,
          .link = link,
          .weight_bytes = device_memory,
          .prefill_flops = flops,
          .kv_bytes = device_memory};
}

GivenMachine given_machine(const std::string& name) {
  for (const GivenMachine* known : {&kFitted, &kPeaks}) {
    if (name == known->name) return *known;
  }
  if (!name.ends_with(".json")) {
    throw Error(ErrorKind::usage,
                fmt::format("--machine {}: neither {} nor {}, nor a .json file", name, kFitted.name, kPeaks.name));
  }
  const json file = read_small_json(name);
  if (!file.is_object()) throw Error(ErrorKind::model, fmt::format("{}: no JSON object", name));
  const Fields fields(file, name);
  return {.name = fields.text("name"),
          .source = fields.text("source"),
          .device_bytes = fields.bytes("device_bytes"),
          .host_bytes = fields.bytes("host_bytes"),
          .disk_bytes = fields.bytes("disk_bytes"),
          .link = fields.number("link"),
          .link_out = fields.number("link_out"),
          .disk_read = fields.number("disk_read"),
          .disk_write = fields.number("disk_write"),
          .device_memory = fields.number("device_memory"),
          .flops = fields.number("flops")};
}

json to_json(const GivenMachine& machine) {
  return {{"name", machine.name},
          {"source", machine.source},
          {"measured", false},
          {"device_bytes", machine.device_bytes},
          {"host_bytes", machine.host_bytes},
          {"disk_bytes", machine.disk_bytes},
          {"link", machine.link},
          {"link_out", machine.link_out},
          {"disk_read", machine.disk_read},
          {"disk_write", machine.disk_write},
          {"device_memory", machine.device_memory},
          {"flops", machine.flops}};
}

}  // namespace spillway

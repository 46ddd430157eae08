// Writes the seeds of the fuzzer of plans, as the planner makes them: make_plan_seeds tests/fuzz/corpus/plan_file.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "runtime/plan_file.h"
#include "tests/fuzz/plan_world.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class Seeds {
 public:
  explicit Seeds(std::string folder) : folder_(std::move(folder)) {}

  // `change`: to what no planner would write.
  void write(const char* name, const SpecModel& model, bool beside, const Options& options,
             const std::function<void(PlanFile&)>& change = {}) const {
    const PlanInput input = world_.input(model, beside, options);
    const Plan plan = make_plan(input);
    PlanFile file = PlanFile::of(plan, input);
    file.processor = "a processor";  // whichever makes the seeds
    if (change) change(file);
    file.write(fmt::format("{}/seed_{}.json", folder_, name), plan.expected);
    fmt::print("{}: weights {}, KV outside {}, experts {}, chooses {}, units {}\n", name, plan.streams_weights(),
               plan.spills_kv(), plan.moves_experts(), plan.selection.on(), plan.before.size() + 1);
  }
  const SpecModel& dense() const { return world_.dense; }
  const SpecModel& experts() const { return world_.experts; }

 private:
  std::string folder_;
  PlanWorld world_;
};

Options options(uint64_t device, uint64_t host, uint64_t disk, int context) {
  Options options;
  options.device_bytes = device;
  if (host > 0) options.host_bytes = host;
  options.disk_bytes = disk;
  options.context = context;
  options.chunk = 64;
  options.unit_bytes = 32 << 10;
  return options;
}

void write_seeds(const Seeds& seeds) {
  const SpecModel &dense = seeds.dense(), &experts = seeds.experts();
  seeds.write("resident", dense, false, options(64 * kMiB, 0, 0, 512));
  seeds.write("streaming", dense, false, options(3 * kMiB, 16 * kMiB, 0, 256));
  Options spilled = options(10 * kMiB, 16 * kMiB, 64 * kMiB, 16384);
  seeds.write("kv_spilled", dense, false, spilled);
  constexpr uint64_t kGiB = 1 << 30, kTiB = kGiB << 10;
  seeds.write("kv_far", dense, false, options(64 * kGiB, kTiB, 1000 * kTiB, 1 << 30));
  spilled.kv_codec = KvCodec::q4;
  spilled.sequences = 3;
  seeds.write("kv_packed", dense, false, spilled);
  Options split = options(12 * kMiB, 64 * kMiB, 32 * kMiB, 4096);
  split.device_layers = 4;
  seeds.write("split", dense, true, split);
  seeds.write("experts", experts, false, options(2 * kMiB, 16 * kMiB, 0, 256));
  seeds.write("experts_beside", experts, true, options(3 * kMiB, 64 * kMiB, 0, 256));
  Options chosen = options(10 * kMiB, 64 * kMiB, 64 * kMiB, 16384);
  chosen.selection.selector = KvSelector::rehearsal;
  seeds.write("kv_select", dense, false, chosen);
  chosen.selection.granule_tokens = 1;
  seeds.write("granules_overflow", dense, false, chosen, [](PlanFile& file) {
    file.context = 1 << 28;
    file.sequences = 1 << 16;
  });
  chosen.selection.granule_tokens = 4;
  chosen.selection.keep = KvRetention::heavy;
  chosen.selection.selector = KvSelector::all;
  chosen.selection.tokens = 512;
  seeds.write("kv_keep", dense, true, chosen);
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    spillway::write_seeds(spillway::Seeds(argv[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

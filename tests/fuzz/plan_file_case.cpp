#include "tests/fuzz/plan_file_case.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "kernels/check.h"
#include "runtime/plan_file.h"
#include "tests/fuzz/plan_world.h"

namespace spillway {
namespace {

const PlanWorld& world() {
  static const PlanWorld kWorld;
  return kWorld;
}

void check_sound(const Plan& plan, const ModelSpec& spec) {
  SPILLWAY_CHECK(plan.unit_tiers.size() == plan.units.size());
  for (size_t i = 0; i < plan.units.size(); ++i) {
    SPILLWAY_CHECK(plan.unit_tiers[i] == Tier::device || plan.units[i].bytes <= plan.weight_ring_bytes);
  }
  SPILLWAY_CHECK(plan.chunk >= 1 && plan.chunk <= plan.context && plan.context % kPageTokens == 0);
  SPILLWAY_CHECK(plan.logit_rows >= 1 && plan.logit_rows <= plan.chunk);
  SPILLWAY_CHECK(plan.kv_device_rows_per_layer >= 1);
  SPILLWAY_CHECK(!plan.spills_kv() || plan.kv_ring_bytes >= plan.kv_layout.row_bytes());
  SPILLWAY_CHECK(plan.last_layer <= spec.shape.layers);
  for (const Plan& before : plan.before) check_sound(before, spec);
}

// Whether a plan comes of it.
bool carry_out(const PlanFile& file, const SpecModel& model, bool beside) {
  try {
    Options options;
    file.decide(options);
    const Plan plan = file.plan(world().input(model, beside, options));
    for (const Tier tier : {Tier::device, Tier::host}) {
      SPILLWAY_CHECK(plan.tier(tier).total() <= plan.tier(tier).budget);
    }
    SPILLWAY_CHECK(plan.tier(Tier::disk).kv <= plan.tier(Tier::disk).budget);
    check_sound(plan, model.spec);
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage && error.kind() != ErrorKind::fit) throw;
    return false;
  }
}

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void check_round_trip(const PlanFile& file) {
  const Folder folder;
  const std::string first = folder.path("first"), second = folder.path("second");
  file.write(first, {});
  PlanFile::read(first).write(second, {});
  SPILLWAY_CHECK(text_of(first) == text_of(second));
}

}  // namespace

int try_plan(std::span<const std::byte> bytes) {
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  PlanFile file;
  try {
    file = PlanFile::parse(text, "case.json");
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
    return -1;
  }
  check_round_trip(file);
  int plans = 0;
  for (const SpecModel* model : {&world().dense, &world().experts}) {
    for (const bool beside : {false, true}) plans += carry_out(file, *model, beside);
  }
  return plans;
}

}  // namespace spillway

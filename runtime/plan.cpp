#include "runtime/plan.h"

#include <utility>

namespace spillway {

void Plan::take_in(Plan unit) {
  const TierPlan& memory = unit.tier(Tier::device);
  TierPlan& host = tier(Tier::host);
  host.weights += memory.weights;
  host.kv += memory.kv;
  host.selection += memory.selection;
  host.workspace += memory.workspace;
  host.rings += memory.rings;
  host.process += memory.process;
  tier(Tier::disk).weights += unit.tier(Tier::disk).weights;
  tier(Tier::disk).kv += unit.tier(Tier::disk).kv;
  before.push_back(std::move(unit));
}

}  // namespace spillway

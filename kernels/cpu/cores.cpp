#include "kernels/cpu/cores.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels/check.h"
#include "kernels/cpu/control_groups.h"

namespace spillway {
namespace {

hwloc_topology_t load_topology() {
  // hwloc would load its plugins here: X11, OpenCL and the like, slow to open and of no use to us. Who set the path
  // himself keeps it.
  setenv("HWLOC_PLUGINS_PATH", "/nonexistent", 0);
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) throw Error(ErrorKind::io, "hwloc: cannot start (hwloc_topology_init)");
  hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE);
  hwloc_topology_set_type_filter(topology, HWLOC_OBJ_CORE, HWLOC_TYPE_FILTER_KEEP_ALL);
  if (hwloc_topology_load(topology) != 0) {
    hwloc_topology_destroy(topology);
    throw Error(ErrorKind::io, "hwloc: cannot read the machine's topology (hwloc_topology_load)");
  }
  return topology;
}

}  // namespace

std::vector<unsigned> choose_units(hwloc_topology_t topology, hwloc_const_cpuset_t allowed, int threads) {
  // units[n]: the n-th allowed unit of each core. A unit without a core above it (some virtual machines) is its own
  // core.
  std::vector<std::vector<unsigned>> rounds;
  std::vector<std::pair<hwloc_obj_t, size_t>> used;  // core -> units taken so far
  const int count = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_PU);
  for (int i = 0; i < count; i++) {
    const hwloc_obj_t unit = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PU, static_cast<unsigned>(i));
    if (!hwloc_bitmap_isset(allowed, unit->os_index)) continue;
    const hwloc_obj_t above = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, unit);
    const hwloc_obj_t core = above != nullptr ? above : unit;
    auto entry = std::find_if(used.begin(), used.end(), [&](const auto& e) { return e.first == core; });
    if (entry == used.end()) entry = used.insert(used.end(), {core, 0});
    if (rounds.size() <= entry->second) rounds.emplace_back();
    rounds[entry->second++].push_back(unit->os_index);
  }
  std::vector<unsigned> order;
  for (const auto& round : rounds) order.insert(order.end(), round.begin(), round.end());
  if (order.empty()) order.push_back(0);  // nothing is told about this machine: one worker, wherever it runs
  const size_t wanted = threads > 0 ? static_cast<size_t>(threads) : std::max<size_t>(used.size(), 1);
  std::vector<unsigned> units(wanted);
  for (size_t i = 0; i < wanted; i++) units[i] = order[i % order.size()];
  return units;
}

Cores::Cores(int threads) : topology_(load_topology()), allowed_(hwloc_bitmap_alloc()) {
  SPILLWAY_CHECK(threads >= 0);
  // What the process may use by its affinity (taskset) too, not only by its cpuset. Of the whole process: the thread
  // that makes the Team may be pinned itself.
  if (hwloc_get_cpubind(topology_.get(), allowed_.get(), HWLOC_CPUBIND_PROCESS) == 0) {
    hwloc_bitmap_and(allowed_.get(), allowed_.get(), hwloc_topology_get_allowed_cpuset(topology_.get()));
  }
  if (hwloc_bitmap_iszero(allowed_.get())) {
    hwloc_bitmap_copy(allowed_.get(), hwloc_topology_get_allowed_cpuset(topology_.get()));
  }
  units_ = choose_units(topology_.get(), allowed_.get(), threads);
  // Under a quota, workers beyond it would only spin away the time of the others.
  if (const auto quota = processor_quota(); threads == 0 && quota) {
    units_.resize(std::min(units_.size(), static_cast<size_t>(std::max(1.0, std::floor(*quota)))));
  }
  std::vector<unsigned> distinct = units_;
  std::sort(distinct.begin(), distinct.end());
  shared_ = std::adjacent_find(distinct.begin(), distinct.end()) != distinct.end();
}

void Cores::bind_thread(int worker) const {
  std::unique_ptr<hwloc_bitmap_s, Destroy> set(hwloc_bitmap_alloc());
  hwloc_bitmap_only(set.get(), units_[static_cast<size_t>(worker)]);
  if (hwloc_set_cpubind(topology_.get(), set.get(), HWLOC_CPUBIND_THREAD) != 0) {
    hwloc_set_cpubind(topology_.get(), allowed_.get(), HWLOC_CPUBIND_THREAD);
  }
}

}  // namespace spillway

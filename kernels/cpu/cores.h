// Which processing units the workers of a Team are pinned to (hwloc). Only units that this process may use are seen.
#pragma once

#include <hwloc.h>

#include <memory>
#include <vector>

namespace spillway {

// OS numbers of processing units, one for each worker: first one of every distinct core in `allowed`, in order, then
// the further units (hyperthreads) of these cores, then the same again. threads = 0: as many workers as cores.
std::vector<unsigned> choose_units(hwloc_topology_t topology, hwloc_const_cpuset_t allowed, int threads);

class Cores {
 public:
  // threads = 0: one for each core allowed to us, and no more than a control group's quota of processor time pays for.
  explicit Cores(int threads);

  int workers() const { return static_cast<int>(units_.size()); }
  // Several workers share a unit: a worker that spins would hold up another.
  bool shared() const { return shared_; }
  // Pins the calling thread to this worker's unit; where that is refused, to everything we may use, so that a thread
  // does not stay where its creator was pinned. Refusal is no error: pinning is speed, not correctness.
  void bind_thread(int worker) const;

 private:
  struct Destroy {
    void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
    void operator()(hwloc_bitmap_t set) const { hwloc_bitmap_free(set); }
  };
  std::unique_ptr<hwloc_topology, Destroy> topology_;
  std::unique_ptr<hwloc_bitmap_s, Destroy> allowed_;
  std::vector<unsigned> units_;
  bool shared_ = false;
};

}  // namespace spillway

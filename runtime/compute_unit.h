// ComputeUnit: all that one device needs to run layers: its stream, its weights and their feed, its KV and its feed,
// its workspace, and the lanes by which bytes reach it. Its places are taken from the engine's arenas, as the plan
// says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/device.h"
#include "memory/arena.h"
#include "memory/disk_queue.h"
#include "memory/kv/cache.h"
#include "memory/weight_home.h"
#include "prefetch/chosen_feed.h"
#include "prefetch/copy_engine.h"
#include "prefetch/expert_feed.h"
#include "prefetch/kv_feed.h"
#include "prefetch/weight_feed.h"
#include "runtime/model.h"
#include "runtime/options.h"
#include "runtime/pass.h"
#include "runtime/plan.h"
#include "runtime/rehearsal.h"
#include "runtime/vectors.h"
#include "runtime/workspace.h"

namespace spillway {

struct ComputeUnitParts {
  const Model& model;
  const Options& options;
  const Plan& plan;  // of this unit
  Device& device;
  Arena& device_arena;  // what the unit computes from: of a CPU beside a device, the host's
  Arena& host_arena;
  DiskQueue* disk;  // null where the plan reads none
  Traffic& traffic;
  uint64_t spill_offset = 0;  // of this unit's KV in the spill file
  std::string name = {};      // before the names of its streams, where there are several units
};

// In the order of construction; destroyed in reverse, after drain().
struct ComputeUnit {
  const ModelSpec spec;  // of its layers alone
  Device& device;
  // The operations' scratch is this unit's while it lives: two units, or engines, on one device would write over each
  // other's, and so the second one is refused (SPILLWAY_CHECK).
  struct Scratch {
    Ops* ops = nullptr;
    ~Scratch();
  } scratch;
  std::unique_ptr<Stream> compute;
  // Null where the plan moves nothing. The last one brings experts from disk to host memory.
  std::unique_ptr<CopyLane> weight_lane, fetch_lane, spill_lane, expert_lane, expert_host_lane;
  std::span<std::byte> load_staging;  // of the first lane: the lanes move nothing before the weights are there
  Workspace workspace;
  WeightHome home, experts;
  std::span<std::byte> small;  // the place of the norms and biases
  ModelVectors vectors;
  std::unique_ptr<KvCache> kv;
  std::unique_ptr<WeightFeed> weight_feed;
  std::unique_ptr<KvFeed> kv_feed;
  std::unique_ptr<ChosenFeed> chosen_feed;  // null, and the rehearsal too, where decode steps read all of the KV
  std::unique_ptr<Rehearsal> rehearsal;
  std::unique_ptr<ExpertFeed> expert_feed;  // null where there are no experts
  std::span<std::byte> host_inputs;
  std::unique_ptr<Pass> pass;

  // Takes its places; moves nothing yet.
  explicit ComputeUnit(const ComputeUnitParts& parts);
  ComputeUnit(const ComputeUnit&) = delete;

  // Reads what stays resident, and the norms and biases; `read`: bytes of weights since the last call.
  void load(const Model& model, Traffic& traffic, const std::function<void(uint64_t read)>& progress);

  // The end, in two steps, between which the disk is told that nobody reads any more: no fetch is planned, then none is
  // under way. A lane may wait for another's event, so all are drained before any is torn down.
  void end_feeds();
  void drain();

 private:
  void make_lanes(const ComputeUnitParts& parts);
  void place_weights(const ComputeUnitParts& parts);
  void place_experts(const ComputeUnitParts& parts);
  void place_kv(const ComputeUnitParts& parts);
  void place_selection(const ComputeUnitParts& parts);
};

}  // namespace spillway

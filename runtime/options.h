// Options: what was asked for, typed. Strings and flags end in apps/.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/backend.h"
#include "kernels/kv_page.h"
#include "runtime/kv_selection.h"

namespace spillway {

enum class DeviceChoice : uint8_t { automatic, cpu, reference, cuda };

struct Options {
  std::string model_path;
  // Budgets in bytes. Not given: most of what is free (device; beside a GPU, host), nothing (disk; beside a CPU, host).
  std::optional<uint64_t> device_bytes;
  std::optional<uint64_t> host_bytes;
  // Of the device's budget, the most that KV takes: pages, rings, and what choosing among it needs. Not given: as fast.
  std::optional<uint64_t> kv_device_bytes;
  uint64_t disk_bytes = 0;  // for spilled KV
  std::string disk_directory;

  int context = 0;  // positions; 0: what the caller needs, or what the budgets allow
  // Open at once; they share the context's positions, and what forks have in common counts once. Where several share a
  // pass (batch), each takes whole pages of them.
  int sequences = 1;
  int positions = 0;                // of one sequence at most; 0: the context's
  int batch = 1;                    // sequences that one pass may compute, a token of each and a chunk beside them
  int chunk = 512;                  // prompt tokens computed together (-ub)
  int logit_rows = 1;               // rows of logits kept at once; a plan may give fewer
  KvCodec kv_codec = KvCodec::f16;  // f32: of all KV; else of full pages
  int kv_edge_layers = 2;           // the model's first and last so many layers keep half precision
  KvSelection selection;            // what decode steps read of the KV
  // Layers that the device computes, the last ones; the CPU computes those before them, in host memory. Not given: what
  // is fastest beside a GPU, all where the device is a CPU itself.
  std::optional<int> device_layers;
  int threads = 0;
  uint64_t unit_bytes = 0;  // of weights moved together at most; 0: what suits the budget
  int lookahead = 0;        // streamed items fetched ahead; 0: as many as the ring holds
  DeviceChoice device = DeviceChoice::automatic;
  CudaOptions cuda;
  CpuIsa isa = CpuIsa::best;
  double link_bytes_per_second = 0;  // > 0: an emulated link between host and device memory
  bool refresh_machine = false;
  uint64_t process_room = 0;  // that the process may have grown by when the plan is carried out
  bool only_planned = false;  // nothing will run: measuring the machine need not keep to the budgets
};

}  // namespace spillway

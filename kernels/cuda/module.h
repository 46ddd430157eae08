// The seam between the program and the CUDA module: plain structs and one versioned table of functions. The program
// opens spillway_cuda.so at run time (kernels/cuda_module.h) and links to nothing of CUDA; the tests fill the same
// table with the kernels compiled for their emulation.
//
// A function returns null, or what went wrong in the driver's words (a static text). All work is enqueued on `stream`
// and returns at once; pointers inside the argument structs are device memory unless said otherwise. Shapes are the
// caller's duty, as in kernels/ops.h, which also says what each operation computes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

namespace spillway {

// Raised with every change of this file or of a struct it uses.
inline constexpr uint32_t kCudaTableVersion = 11;
inline constexpr char kCudaTableSymbol[] = "spillway_cuda_table";

struct CudaDeviceInfo {
  char name[256];
  int32_t major;  // compute capability
  int32_t minor;
  int32_t multiprocessors;
  int32_t emulated;  // not zero: the tests' double
  uint64_t total_bytes;
};

struct CudaDequantize {
  View rows;  // [m x k], any type but I32
  View out;   // [m x k] f32

  bool operator==(const CudaDequantize&) const = default;
};

struct CudaNorm {
  View x;       // [m x k] f32
  View weight;  // [1 x k] f32
  View out;     // [m x k] f32; may be x
  float eps;
  std::byte* codes = nullptr;  // of out (cuda_matvec_scratch_bytes)

  bool operator==(const CudaNorm&) const = default;
};

struct CudaRotate {
  View x;      // [m x heads * head_dim] f32, in place
  View table;  // [m x 2 * pairs] f32: cos, sin, cos, sin, ...
  int32_t head_dim;
  RotationStyle style;

  bool operator==(const CudaRotate&) const = default;
};

// Up to 4 weight matrices share x [m x k] f32. Activations are quantised to int8 by blocks of 32 where the weight is.
struct CudaMatvec {
  View x;
  const MatmulPart* parts;  // host memory
  int32_t parts_count;
  std::byte* scratch;  // cuda_matvec_scratch_bytes(m, k), aligned to 16; in use until the call's kernels have run
  uint64_t scratch_bytes;
  bool x_is_ready = false;  // scratch holds the codes of x: the last call made them, and read no F16 or BF16

  bool operator==(const CudaMatvec&) const = default;
};

// The same for any number of rows, on tensor cores: what a large batch or the chunk of a prefill wants. A row's result
// depends neither on the number of rows, nor on the parts, nor on which rows of a matrix are there; but it is added up
// in another order than by `matvec`, except where the weight is F32.
using CudaMatmul = CudaMatvec;
inline constexpr int kCudaMatvecRows = 8;  // up to so many rows of x `matvec` reads the weight once, and is faster

// Codes of x, then for each block of 32 its scale and the sum of its codes; or a scale for each row. An operation that
// is given such a scratch as the `codes` of its `out`, [m x k] with k a multiple of 32, leaves there what the product
// that reads `out` next would make of it: `matvec` of up to kCudaMatvecRows rows, `matmul` of more.
constexpr uint64_t cuda_matvec_scratch_bytes(int64_t rows, int64_t cols) {
  const int64_t row = cols / 32 * (32 + 8);
  return static_cast<uint64_t>(rows) * static_cast<uint64_t>(row > 4 ? row : 4);
}

// Of rows that go to experts: each block's scale and sum twice, for either kind of product.
constexpr uint64_t cuda_experts_scratch_bytes(int64_t rows, int64_t cols) {
  return cuda_matvec_scratch_bytes(rows, cols) + static_cast<uint64_t>(rows * (cols / 32) * 8);
}

// Formats and pages as for CudaAttend.
struct CudaAppend {
  View k, v;  // [m x kv_heads * head_dim] f32
  KvFormat format;
  const AppendRun* runs;
  int32_t runs_count;
  int32_t rows;  // of the longest run

  bool operator==(const CudaAppend&) const = default;
};

// As CudaRotate of q and of k, then CudaAppend of k and v; runs hold each row once. k is left as it was.
struct CudaRotateAppend {
  View q;      // [m x heads * head_dim] f32, in place
  View k, v;   // [m x kv_heads * head_dim] f32
  View table;  // [m x 2 * pairs] f32
  RotationStyle style;
  KvFormat format;
  const AppendRun* runs;
  int32_t runs_count;
  int32_t rows;  // of the longest run

  bool operator==(const CudaRotateAppend&) const = default;
};

inline constexpr int kCudaMostHeadDim = 256;  // of the attention kernels

// Pages of F16; head_dim as for CudaAttend.
struct CudaSeal {
  KvFormat format;
  const SealRun* runs;
  int32_t runs_count;
};

// Pages of F32, F16 or BF16, head_dim a multiple of 8 up to kCudaMostHeadDim, each page row aligned to 16 bytes. Packed
// page rows stand for F16.
struct CudaAttend {
  View q;  // [m x heads * head_dim] f32
  View states;
  AttendShape shape;
  const SpanTask* tasks;
  int32_t tasks_count;
  const int32_t* tasks_there = nullptr;  // how many of them there are when the kernel runs; null: all

  bool operator==(const CudaAttend&) const = default;
};

// As CudaAttend, and the result of a row depends neither on the other rows of the call nor on how spans are dealt out
// to calls.
struct CudaAttendChunk {
  View q;       // [m x heads * head_dim] f32
  View states;  // [m x heads * attn_state_floats] f32
  AttendShape shape;
  const KvSpan* spans;
  int32_t spans_count;
  int32_t first_position;
  bool fresh;
};

// Of a selection, as in kernels/ops.h; pages of F16, page rows and rows of partial keys aligned to 16 bytes.
struct CudaPartialKeys {
  KvFormat kv;
  PartialKeyFormat format;
  PartialKeyBasis basis;
  const PartialKeyRun* runs;
  int32_t runs_count;
  int32_t rows;  // of the longest run

  bool operator==(const CudaPartialKeys&) const = default;
};

// Some page rows of a Ops::score_keys, ascending. What changes from step to step lies in device memory; the columns of
// scores and weights follow from it, and rows of these are `stride` bytes apart.
struct CudaScoreKeys {
  View q;  // [1 x heads * head_dim] f32
  AttendShape shape;
  PartialKeyFormat format;
  PartialKeyBasis basis;
  const std::byte* const* rows;  // page rows [first_row, first_row + rows_count); those beyond the last token are none
  const int32_t* tokens;         // how many there are
  int32_t first_row;
  int32_t rows_count;
  int32_t granule_tokens;
  std::byte* scores;
  uint64_t scores_stride;
  std::byte* weights;
  uint64_t weights_stride;
  bool last;  // these rows are the last ones: the weights are made

  bool operator==(const CudaScoreKeys&) const = default;
};

struct CudaKeyBounds {
  KvFormat kv;
  int32_t granule_tokens;
  const PartialKeyRun* runs;
  int32_t runs_count;

  bool operator==(const CudaKeyBounds&) const = default;
};

// Some page rows of a Ops::score_bounds, as CudaScoreKeys.
struct CudaScoreBounds {
  View q;  // [1 x heads * head_dim] f32
  AttendShape shape;
  const std::byte* const* rows;
  const int32_t* tokens;
  int32_t first_row;
  int32_t rows_count;
  int32_t granule_tokens;
  std::byte* scores;
  uint64_t scores_stride;
  std::byte* weights;
  uint64_t weights_stride;
  bool last;

  bool operator==(const CudaScoreBounds&) const = default;
};

// Pages of F16, head_dim as for CudaAttend.
struct CudaSumAttention {
  View q;       // [m x heads * head_dim] f32
  View states;  // [m x heads * attn_state_floats] f32
  View sums;    // [kv_heads x granules] f32
  AttendShape shape;
  const KvSpan* spans;
  int32_t spans_count;
  int32_t first_position;
  int32_t granule_tokens;
};

// Of a Ops::sum_selected what changes from step to step, in device memory.
struct CudaSelectedSums {
  SelectedKv kv;
  int32_t tokens;
};
struct CudaSumSelected {
  View q;  // [1 x heads * head_dim] f32
  AttendShape shape;
  const CudaSelectedSums* step;
  int32_t granules;  // that there are, or more
  const std::byte* ids;
  uint64_t ids_stride;
  const std::byte* states;
  uint64_t states_stride;
  std::byte* sums;
  uint64_t sums_stride;

  bool operator==(const CudaSumSelected&) const = default;
};

inline constexpr int kCudaMostGranules = (1 << 21) - 1;

struct CudaChooseGranules {
  const std::byte* weights;
  uint64_t weights_stride;
  std::byte* ids;
  uint64_t ids_stride;
  int32_t kv_heads;
  const GranuleChoice* choice;

  bool operator==(const CudaChooseGranules&) const = default;
};

// Pages of F16, head_dim as for CudaAttend, places aligned to 16 bytes.
struct CudaAttendSelected {
  View q;  // [1 x heads * head_dim] f32
  AttendShape shape;
  const SelectedKv* kv;
  int32_t states_count;  // kv->states(), or more
  std::byte* states;
  uint64_t states_stride;

  bool operator==(const CudaAttendSelected&) const = default;
};

struct CudaMerge {
  View states;  // [slots x heads * attn_state_floats] f32
  AttendShape shape;
  const MergeTask* tasks;
  int32_t tasks_count;
  View out;                    // [m x heads * head_dim] f32
  std::byte* codes = nullptr;  // of out (cuda_matvec_scratch_bytes); for heads of a multiple of 32

  bool operator==(const CudaMerge&) const = default;
};

// Shapes and aliasing as in kernels/ops.h.
struct CudaLayerNorm {
  View x, weight, bias, out;
  float eps;

  bool operator==(const CudaLayerNorm&) const = default;
};

struct CudaAdd {
  View x, y;

  bool operator==(const CudaAdd&) const = default;
};

struct CudaScale {
  View x;
  float factor;

  bool operator==(const CudaScale&) const = default;
};

struct CudaActivate {
  Activation kind;
  View gate, up;               // [m x n] f32; up may have no rows
  View out;                    // [m x n] f32; may be gate or up
  std::byte* codes = nullptr;  // of out (cuda_matvec_scratch_bytes)

  bool operator==(const CudaActivate&) const = default;
};

// Of experts, as in kernels/ops.h.
struct CudaRoute {
  View logits;  // [m x experts] f32
  View x;       // [m x k] f32
  View rows;    // [m * used x k] f32
  ExpertRoutes routes;
  bool normalise;

  bool operator==(const CudaRoute&) const = default;
};

struct CudaExperts {
  Activation kind;
  ExpertRoutes routes;
  View rows;                                 // [m * used x hidden] f32, in place
  View gate, up;                             // [m * used x ffn] f32
  View gate_weight, up_weight, down_weight;  // type and shape of one expert's
  const ExpertData* experts;                 // [routes.experts]
  std::byte* scratch;  // cuda_experts_scratch_bytes(m * used, the larger of hidden and ffn), as for CudaMatvec
  uint64_t scratch_bytes;

  bool operator==(const CudaExperts&) const = default;
};

struct CudaCombine {
  View rows;  // [m * used x k] f32
  View x;     // [m x k] f32
  ExpertRoutes routes;

  bool operator==(const CudaCombine&) const = default;
};

struct CudaCandidates {
  View logits;  // [m x n] f32; penalised in place
  View out;     // [m x candidate_floats(k)] f32
  const int32_t* penalised;
  int32_t penalised_count;
  float penalty;
  int32_t k;
};

// Row i of `to` is row rows[i] of `from`: host memory of reserve_host (read over the link, by the kernel) or the
// device's.
struct CudaGather {
  const std::byte* from;  // aligned to 16, as `to` is
  const int32_t* rows;    // device-readable
  int32_t count;
  uint32_t row_bytes;  // a multiple of 16
  std::byte* to;       // device memory, rows side by side
};

// Stretches that lie anywhere, in host memory of reserve_host or the device's, to device memory: addresses and lengths
// multiples of 16.
struct CudaGatherRuns {
  const GatherRun* runs;  // device-readable
  int32_t count;
};

// A word at destination + 4 * at.
struct CudaWord {
  uint32_t at;
  uint32_t word;
};
inline constexpr int kCudaMostScattered = 480;  // parameters end at 4 KiB

using CudaProblem = const char*;
using CudaStream = void*;
using CudaEvent = void*;
using CudaGraph = void*;

}  // namespace spillway

struct SpillwayCudaTable {
  uint32_t version;  // these two stay first for ever
  uint32_t bytes;    // sizeof(SpillwayCudaTable)

  // Devices. device_count fails where there is no driver or no device.
  spillway::CudaProblem (*device_count)(int32_t* count);
  spillway::CudaProblem (*device_info)(int32_t device, spillway::CudaDeviceInfo* info);
  // Makes the device's context, once; `taken`: device memory that it takes, with the code it will load.
  spillway::CudaProblem (*open_device)(int32_t device, uint64_t* taken);
  spillway::CudaProblem (*use_device)(int32_t device);  // for the calling thread
  spillway::CudaProblem (*free_bytes)(uint64_t* bytes);

  // Memory of the device in use, and host memory it copies from at full speed.
  spillway::CudaProblem (*reserve)(uint64_t bytes, void** block);
  spillway::CudaProblem (*release)(void* block);
  spillway::CudaProblem (*reserve_host)(uint64_t bytes, void** block);
  spillway::CudaProblem (*release_host)(void* block);
  // The same for memory that is there already, whole pages of it. A copy stays within one such block.
  spillway::CudaProblem (*pin_host)(void* block, uint64_t bytes);
  spillway::CudaProblem (*unpin_host)(void* block);

  // Order.
  spillway::CudaProblem (*make_stream)(spillway::CudaStream* stream);
  spillway::CudaProblem (*end_stream)(spillway::CudaStream stream);
  spillway::CudaProblem (*synchronize)(spillway::CudaStream stream);
  spillway::CudaProblem (*make_event)(spillway::CudaEvent* event);
  spillway::CudaProblem (*end_event)(spillway::CudaEvent event);
  spillway::CudaProblem (*record)(spillway::CudaEvent event, spillway::CudaStream stream);
  spillway::CudaProblem (*wait_for)(spillway::CudaStream stream, spillway::CudaEvent event);
  spillway::CudaProblem (*event_done)(spillway::CudaEvent event, bool* done);
  spillway::CudaProblem (*event_wait)(spillway::CudaEvent event);
  spillway::CudaProblem (*copy)(spillway::CudaStream stream, void* destination, const void* source, uint64_t bytes);
  // Events of which `elapsed` knows the time between: of two that are done, from the first to the second.
  spillway::CudaProblem (*make_timed_event)(spillway::CudaEvent* event);
  spillway::CudaProblem (*elapsed)(spillway::CudaEvent from, spillway::CudaEvent to, float* milliseconds);
  // A few bytes of any host memory, taken before the call returns, to device memory; past the copies that are queued.
  // All multiples of 4.
  spillway::CudaProblem (*put)(spillway::CudaStream stream, void* destination, const void* source, uint64_t bytes);
  // The same of scattered words, up to kCudaMostScattered.
  spillway::CudaProblem (*put_words)(spillway::CudaStream stream, void* destination, const spillway::CudaWord* words,
                                     int32_t count);

  // What one thread enqueues on the stream between these two runs nothing and becomes a graph, to be launched as one,
  // any number of times and in the order of whatever stream: kernels as they were called, with the arguments they had.
  // Only operations may be called between; where anything failed, end_capture says so, and there is no graph.
  spillway::CudaProblem (*begin_capture)(spillway::CudaStream stream);
  spillway::CudaProblem (*end_capture)(spillway::CudaStream stream, spillway::CudaGraph* graph);
  spillway::CudaProblem (*launch_graph)(spillway::CudaStream stream, spillway::CudaGraph graph);
  spillway::CudaProblem (*end_graph)(spillway::CudaGraph graph);  // whose launches have run

  // Ranges and names for a profiler that the process runs under (NVTX, domain "spillway"); nothing where it runs under
  // none. Ranges nest, thread by thread; bytes > 0 become the range's payload.
  bool (*profiled)();
  void (*push_range)(const char* name, uint64_t bytes);
  void (*pop_range)();
  void (*name_stream)(spillway::CudaStream stream, const char* name);

  // Operations a second of the product of two matrices [size x size] of F16 by cuBLAS, with sums in F32, the median of
  // several: the limit that products stand beside. Waits for the device, and takes its memory from outside of any arena
  // (three matrices and cuBLAS's own) until it returns. A sentence where cuBLAS is not installed.
  spillway::CudaProblem (*product_speed)(int32_t size, double* flops);

  // Operations.
  spillway::CudaProblem (*dequantize)(spillway::CudaStream stream, const spillway::CudaDequantize* arguments);
  spillway::CudaProblem (*norm)(spillway::CudaStream stream, const spillway::CudaNorm* arguments);
  spillway::CudaProblem (*rotate)(spillway::CudaStream stream, const spillway::CudaRotate* arguments);
  spillway::CudaProblem (*matvec)(spillway::CudaStream stream, const spillway::CudaMatvec* arguments);
  spillway::CudaProblem (*matmul)(spillway::CudaStream stream, const spillway::CudaMatmul* arguments);
  spillway::CudaProblem (*append)(spillway::CudaStream stream, const spillway::CudaAppend* arguments);
  spillway::CudaProblem (*rotate_append)(spillway::CudaStream stream, const spillway::CudaRotateAppend* arguments);
  spillway::CudaProblem (*seal)(spillway::CudaStream stream, const spillway::CudaSeal* arguments);
  spillway::CudaProblem (*attend)(spillway::CudaStream stream, const spillway::CudaAttend* arguments);
  spillway::CudaProblem (*attend_chunk)(spillway::CudaStream stream, const spillway::CudaAttendChunk* arguments);
  spillway::CudaProblem (*merge)(spillway::CudaStream stream, const spillway::CudaMerge* arguments);
  spillway::CudaProblem (*layer_norm)(spillway::CudaStream stream, const spillway::CudaLayerNorm* arguments);
  spillway::CudaProblem (*add)(spillway::CudaStream stream, const spillway::CudaAdd* arguments);
  spillway::CudaProblem (*scale)(spillway::CudaStream stream, const spillway::CudaScale* arguments);
  spillway::CudaProblem (*activate)(spillway::CudaStream stream, const spillway::CudaActivate* arguments);
  spillway::CudaProblem (*route)(spillway::CudaStream stream, const spillway::CudaRoute* arguments);
  spillway::CudaProblem (*experts)(spillway::CudaStream stream, const spillway::CudaExperts* arguments);
  spillway::CudaProblem (*combine)(spillway::CudaStream stream, const spillway::CudaCombine* arguments);
  spillway::CudaProblem (*candidates)(spillway::CudaStream stream, const spillway::CudaCandidates* arguments);
  spillway::CudaProblem (*gather)(spillway::CudaStream stream, const spillway::CudaGather* arguments);
  spillway::CudaProblem (*gather_runs)(spillway::CudaStream stream, const spillway::CudaGatherRuns* arguments);
  spillway::CudaProblem (*partial_keys)(spillway::CudaStream stream, const spillway::CudaPartialKeys* arguments);
  spillway::CudaProblem (*score_keys)(spillway::CudaStream stream, const spillway::CudaScoreKeys* arguments);
  spillway::CudaProblem (*key_bounds)(spillway::CudaStream stream, const spillway::CudaKeyBounds* arguments);
  spillway::CudaProblem (*score_bounds)(spillway::CudaStream stream, const spillway::CudaScoreBounds* arguments);
  spillway::CudaProblem (*sum_attention)(spillway::CudaStream stream, const spillway::CudaSumAttention* arguments);
  spillway::CudaProblem (*sum_selected)(spillway::CudaStream stream, const spillway::CudaSumSelected* arguments);
  spillway::CudaProblem (*choose_granules)(spillway::CudaStream stream, const spillway::CudaChooseGranules* arguments);
  spillway::CudaProblem (*attend_selected)(spillway::CudaStream stream, const spillway::CudaAttendSelected* arguments);
};

extern "C" {
// The module's one exported symbol.
__attribute__((visibility("default"))) const SpillwayCudaTable* spillway_cuda_table();
}

// The module's table: thin names for the CUDA runtime, and the launchers of the operations.
#include <cstring>
#include <mutex>

#include "kernels/cuda/device_memory.cuh"
#include "kernels/cuda/launchers.cuh"

namespace spillway::cuda {
namespace {

CudaProblem problem_of(cudaError_t error) {
  if (error == cudaSuccess) return nullptr;
  cudaGetLastError();  // or the next launch would report it again
  return cudaGetErrorString(error);
}

cudaStream_t stream_of(CudaStream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(CudaEvent event) { return static_cast<cudaEvent_t>(event); }
cudaGraphExec_t graph_of(CudaGraph graph) { return static_cast<cudaGraphExec_t>(graph); }

CudaProblem device_count(int32_t* count) {
  *count = 0;
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return "no NVIDIA driver is installed";
  int found = 0;
  if (const CudaProblem problem = problem_of(cudaGetDeviceCount(&found))) return problem;
  *count = found;
  return found > 0 ? nullptr : "the NVIDIA driver knows no device";
}

CudaProblem device_info(int32_t device, CudaDeviceInfo* info) {
  cudaDeviceProp properties;
  if (const CudaProblem problem = problem_of(cudaGetDeviceProperties(&properties, device))) return problem;
  *info = {};
  std::memcpy(info->name, properties.name, sizeof info->name - 1);
  info->major = properties.major;
  info->minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->emulated = kEmulated ? 1 : 0;
  info->total_bytes = properties.totalGlobalMem;
  return nullptr;
}

// What a context takes where it cannot be measured, and what it takes later: code is loaded when it first runs, and
// graphs lie on the device.
constexpr uint64_t kContextGuess = uint64_t{512} << 20;
constexpr uint64_t kMostOfAContext = uint64_t{2} << 30;
constexpr uint64_t kCodeAndGraphsToCome = kEmulated ? 0 : uint64_t{48} << 20;
constexpr int kMostDevices = 64;

CudaProblem open_device(int32_t device, uint64_t* taken) {
  static std::mutex mutex;
  static uint64_t known[kMostDevices];
  const std::lock_guard lock(mutex);
  *taken = 0;
  if (device < 0 || device >= kMostDevices) return "no such device";
  if (known[device] == 0) {
    uint64_t before = 0;
    uint64_t after = 0;
    const bool measured = free_without_context(device, &before);
    if (const CudaProblem problem = problem_of(cudaSetDevice(device))) return problem;
    if (const CudaProblem problem = problem_of(cudaFree(nullptr))) return problem;
    uint64_t context = kContextGuess;
    if (measured && free_without_context(device, &after) && after < before && before - after <= kMostOfAContext) {
      context = before - after;
    }
    known[device] = context + kCodeAndGraphsToCome;
  }
  if (const CudaProblem problem = problem_of(cudaSetDevice(device))) return problem;
  if (const CudaProblem problem = problem_of(find_code())) return problem;
  *taken = known[device];
  return nullptr;
}

CudaProblem use_device(int32_t device) { return problem_of(cudaSetDevice(device)); }

CudaProblem free_bytes(uint64_t* bytes) {
  size_t available = 0;
  size_t total = 0;
  const CudaProblem problem = problem_of(cudaMemGetInfo(&available, &total));
  *bytes = available;
  return problem;
}

CudaProblem reserve(uint64_t bytes, void** block) { return problem_of(cudaMalloc(block, bytes)); }
CudaProblem release(void* block) { return problem_of(cudaFree(block)); }
CudaProblem reserve_host(uint64_t bytes, void** block) {
  return problem_of(cudaHostAlloc(block, bytes, cudaHostAllocPortable));
}
CudaProblem release_host(void* block) { return problem_of(cudaFreeHost(block)); }

CudaProblem pin_host(void* block, uint64_t bytes) {
  return problem_of(cudaHostRegister(block, bytes, cudaHostRegisterPortable));
}
CudaProblem unpin_host(void* block) { return problem_of(cudaHostUnregister(block)); }

CudaProblem make_stream(CudaStream* stream) {
  cudaStream_t made = nullptr;
  const CudaProblem problem = problem_of(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  *stream = made;
  return problem;
}

CudaProblem end_stream(CudaStream stream) { return problem_of(cudaStreamDestroy(stream_of(stream))); }
CudaProblem synchronize(CudaStream stream) { return problem_of(cudaStreamSynchronize(stream_of(stream))); }

CudaProblem make_event_with(unsigned flags, CudaEvent* event) {
  cudaEvent_t made = nullptr;
  const CudaProblem problem = problem_of(cudaEventCreateWithFlags(&made, flags));
  *event = made;
  return problem;
}
CudaProblem make_event(CudaEvent* event) { return make_event_with(cudaEventDisableTiming | cudaEventBlockingSync, event); }
CudaProblem make_timed_event(CudaEvent* event) { return make_event_with(cudaEventDefault, event); }
CudaProblem elapsed(CudaEvent from, CudaEvent to, float* milliseconds) {
  return problem_of(cudaEventElapsedTime(milliseconds, event_of(from), event_of(to)));
}

CudaProblem end_event(CudaEvent event) { return problem_of(cudaEventDestroy(event_of(event))); }
CudaProblem record(CudaEvent event, CudaStream stream) {
  return problem_of(cudaEventRecord(event_of(event), stream_of(stream)));
}
CudaProblem wait_for(CudaStream stream, CudaEvent event) {
  return problem_of(cudaStreamWaitEvent(stream_of(stream), event_of(event), 0));
}
CudaProblem event_done(CudaEvent event, bool* done) {
  const cudaError_t error = cudaEventQuery(event_of(event));
  *done = error != cudaErrorNotReady;
  return *done ? problem_of(error) : nullptr;
}
// Sleeps: whoever cannot wait so long polls first.
CudaProblem event_wait(CudaEvent event) { return problem_of(cudaEventSynchronize(event_of(event))); }

CudaProblem copy(CudaStream stream, void* destination, const void* source, uint64_t bytes) {
  if (bytes == 0) return nullptr;
  return problem_of(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream_of(stream)));
}
CudaProblem put(CudaStream stream, void* destination, const void* source, uint64_t bytes) {
  return problem_of(launch_put(stream_of(stream), static_cast<std::byte*>(destination),
                               static_cast<const std::byte*>(source), bytes));
}
CudaProblem put_words(CudaStream stream, void* destination, const CudaWord* words, int32_t count) {
  return problem_of(launch_put_words(stream_of(stream), static_cast<std::byte*>(destination), words, count));
}

// Of this thread alone: others go on with their streams.
CudaProblem begin_capture(CudaStream stream) {
  return problem_of(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal));
}
CudaProblem end_capture(CudaStream stream, CudaGraph* graph) {
  *graph = nullptr;
  cudaGraph_t captured = nullptr;
  if (const CudaProblem problem = problem_of(cudaStreamEndCapture(stream_of(stream), &captured))) return problem;
  cudaGraphExec_t made = nullptr;
  const CudaProblem problem = problem_of(cudaGraphInstantiateWithFlags(&made, captured, 0));
  cudaGraphDestroy(captured);
  if (problem == nullptr) *graph = made;
  return problem;
}
CudaProblem launch_graph(CudaStream stream, CudaGraph graph) {
  return problem_of(cudaGraphLaunch(graph_of(graph), stream_of(stream)));
}
CudaProblem end_graph(CudaGraph graph) { return problem_of(cudaGraphExecDestroy(graph_of(graph))); }

CudaProblem dequantize(CudaStream stream, const CudaDequantize* arguments) {
  return problem_of(launch_dequantize(stream_of(stream), *arguments));
}
CudaProblem norm(CudaStream stream, const CudaNorm* arguments) {
  return problem_of(launch_norm(stream_of(stream), *arguments));
}
CudaProblem rotate(CudaStream stream, const CudaRotate* arguments) {
  return problem_of(launch_rotate(stream_of(stream), *arguments));
}
CudaProblem matvec(CudaStream stream, const CudaMatvec* arguments) {
  return problem_of(launch_matvec(stream_of(stream), *arguments));
}
CudaProblem matmul(CudaStream stream, const CudaMatmul* arguments) {
  return problem_of(launch_matmul(stream_of(stream), *arguments));
}
CudaProblem append(CudaStream stream, const CudaAppend* arguments) {
  return problem_of(launch_append(stream_of(stream), *arguments));
}
CudaProblem rotate_append(CudaStream stream, const CudaRotateAppend* arguments) {
  return problem_of(launch_rotate_append(stream_of(stream), *arguments));
}
CudaProblem seal(CudaStream stream, const CudaSeal* arguments) {
  return problem_of(launch_seal(stream_of(stream), *arguments));
}
CudaProblem attend(CudaStream stream, const CudaAttend* arguments) {
  return problem_of(launch_attend(stream_of(stream), *arguments));
}
CudaProblem attend_chunk(CudaStream stream, const CudaAttendChunk* arguments) {
  return problem_of(launch_attend_chunk(stream_of(stream), *arguments));
}
CudaProblem merge(CudaStream stream, const CudaMerge* arguments) {
  return problem_of(launch_merge(stream_of(stream), *arguments));
}
CudaProblem layer_norm(CudaStream stream, const CudaLayerNorm* arguments) {
  return problem_of(launch_layer_norm(stream_of(stream), *arguments));
}
CudaProblem add(CudaStream stream, const CudaAdd* arguments) {
  return problem_of(launch_add(stream_of(stream), *arguments));
}
CudaProblem scale(CudaStream stream, const CudaScale* arguments) {
  return problem_of(launch_scale(stream_of(stream), *arguments));
}
CudaProblem activate(CudaStream stream, const CudaActivate* arguments) {
  return problem_of(launch_activate(stream_of(stream), *arguments));
}
CudaProblem route(CudaStream stream, const CudaRoute* arguments) {
  return problem_of(launch_route(stream_of(stream), *arguments));
}
CudaProblem experts(CudaStream stream, const CudaExperts* arguments) {
  return problem_of(launch_experts(stream_of(stream), *arguments));
}
CudaProblem combine(CudaStream stream, const CudaCombine* arguments) {
  return problem_of(launch_combine(stream_of(stream), *arguments));
}
CudaProblem candidates(CudaStream stream, const CudaCandidates* arguments) {
  return problem_of(launch_candidates(stream_of(stream), *arguments));
}

CudaProblem gather(CudaStream stream, const CudaGather* arguments) {
  return problem_of(launch_gather(stream_of(stream), *arguments));
}
CudaProblem gather_runs(CudaStream stream, const CudaGatherRuns* arguments) {
  return problem_of(launch_gather_runs(stream_of(stream), *arguments));
}
CudaProblem partial_keys(CudaStream stream, const CudaPartialKeys* arguments) {
  return problem_of(launch_partial_keys(stream_of(stream), *arguments));
}
CudaProblem score_keys(CudaStream stream, const CudaScoreKeys* arguments) {
  return problem_of(launch_score_keys(stream_of(stream), *arguments));
}
CudaProblem key_bounds(CudaStream stream, const CudaKeyBounds* arguments) {
  return problem_of(launch_key_bounds(stream_of(stream), *arguments));
}
CudaProblem score_bounds(CudaStream stream, const CudaScoreBounds* arguments) {
  return problem_of(launch_score_bounds(stream_of(stream), *arguments));
}
CudaProblem sum_attention(CudaStream stream, const CudaSumAttention* arguments) {
  return problem_of(launch_sum_attention(stream_of(stream), *arguments));
}
CudaProblem sum_selected(CudaStream stream, const CudaSumSelected* arguments) {
  return problem_of(launch_sum_selected(stream_of(stream), *arguments));
}
CudaProblem choose_granules(CudaStream stream, const CudaChooseGranules* arguments) {
  return problem_of(launch_choose_granules(stream_of(stream), *arguments));
}
CudaProblem attend_selected(CudaStream stream, const CudaAttendSelected* arguments) {
  return problem_of(launch_attend_selected(stream_of(stream), *arguments));
}

}  // namespace
}  // namespace spillway::cuda

const SpillwayCudaTable* spillway_cuda_table() {
  using namespace spillway::cuda;
  static const SpillwayCudaTable table = {.version = spillway::kCudaTableVersion,
                                          .bytes = sizeof(SpillwayCudaTable),
                                          .device_count = device_count,
                                          .device_info = device_info,
                                          .open_device = open_device,
                                          .use_device = use_device,
                                          .free_bytes = free_bytes,
                                          .reserve = reserve,
                                          .release = release,
                                          .reserve_host = reserve_host,
                                          .release_host = release_host,
                                          .pin_host = pin_host,
                                          .unpin_host = unpin_host,
                                          .make_stream = make_stream,
                                          .end_stream = end_stream,
                                          .synchronize = synchronize,
                                          .make_event = make_event,
                                          .end_event = end_event,
                                          .record = record,
                                          .wait_for = wait_for,
                                          .event_done = event_done,
                                          .event_wait = event_wait,
                                          .copy = copy,
                                          .make_timed_event = make_timed_event,
                                          .elapsed = elapsed,
                                          .put = put,
                                          .put_words = put_words,
                                          .begin_capture = begin_capture,
                                          .end_capture = end_capture,
                                          .launch_graph = launch_graph,
                                          .end_graph = end_graph,
                                          .profiled = profiled,
                                          .push_range = push_range,
                                          .pop_range = pop_range,
                                          .name_stream = name_stream,
                                          .product_speed = product_speed,
                                          .dequantize = dequantize,
                                          .norm = norm,
                                          .rotate = rotate,
                                          .matvec = matvec,
                                          .matmul = matmul,
                                          .append = append,
                                          .rotate_append = rotate_append,
                                          .seal = seal,
                                          .attend = attend,
                                          .attend_chunk = attend_chunk,
                                          .merge = merge,
                                          .layer_norm = layer_norm,
                                          .add = add,
                                          .scale = scale,
                                          .activate = activate,
                                          .route = route,
                                          .experts = experts,
                                          .combine = combine,
                                          .candidates = candidates,
                                          .gather = gather,
                                          .gather_runs = gather_runs,
                                          .partial_keys = partial_keys,
                                          .score_keys = score_keys,
                                          .key_bounds = key_bounds,
                                          .score_bounds = score_bounds,
                                          .sum_attention = sum_attention,
                                          .sum_selected = sum_selected,
                                          .choose_granules = choose_granules,
                                          .attend_selected = attend_selected};
  return &table;
}

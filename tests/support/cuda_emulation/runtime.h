// The fake CUDA runtime: device memory, pinned host memory, streams and events under CUDA's own names, for one device
// that does not exist. Nothing runs when it is enqueued. Work runs when the host waits, and then the streams' heads are
// taken by random priorities, which are drawn anew after a step or after many (probabilistic concurrency testing,
// Burckhardt et al., ASPLOS 2010): an order nobody asked for is soon not kept, and a stream may fall far behind
// another. Copies read their source as late as that.
//
// A stream that is captured runs nothing: what is enqueued becomes part of a graph, whose kernels run, with the
// arguments they had and on what memory then holds, each time the graph is launched. What may not be asked while the
// thread captures (to wait, to query, to reserve memory, to wait for what was not captured) is answered with an error
// and spoils the capture; to query an event that was not captured, too, where the real runtime may let it pass.
//
// Device memory is filled with 0xCB, and lies between guard zones that are checked whenever the host waits and poisoned
// for AddressSanitizer; under it the host cannot touch device memory outside a kernel or a copy. What a real runtime
// would answer with an error code, it answers so; what it would not notice is a Fault, thrown where the host waits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "tests/support/cuda_emulation/block.h"

namespace spillway::emulation {

// Starts afresh: the orders drawn from now on are those of `seed`. A Fault if memory, streams or events of before are
// left.
void restart(uint64_t seed);
// After a fault: drops whatever memory, streams and events there are.
void abandon();
// Makes the calls that find devices answer as without a driver, or with a driver and no device.
enum class Presence : uint8_t { device, no_driver, no_device };
void set_presence(Presence presence);
// What the device is taken for: kernels are chosen by it. A restart makes it an 8.0 with one multiprocessor.
struct Likeness {
  int major = 8;
  int minor = 0;
  int multiprocessors = 1;
};
void set_likeness(Likeness likeness);
// From now on no more host memory than this is pinned: cudaHostRegister is refused beyond it. And copies from memory
// that is not pinned, a fault otherwise, are made as the real runtime makes them: at once, when the stream has run.
void limit_pinned(size_t bytes);
// From now on nothing can be captured.
void refuse_graphs();
// What the host has enqueued since the restart, call by call; what is captured is not.
struct HostCalls {
  uint64_t kernels = 0;
  uint64_t graphs = 0;
  uint64_t copies = 0;
};
HostCalls host_calls();
// From now on so much of the device is taken by others.
void take_device_memory(size_t bytes);
// When device memory is next reserved, others have just taken all but so much of what was free.
void leave_at_next_reservation(size_t bytes);
// A Fault unless [data, data + bytes) lies in one reserved block, of device memory or pinned.
void check_addressable(const void* data, size_t bytes);

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorHostMemoryAlreadyRegistered = 712,
  cudaErrorHostMemoryNotRegistered = 713,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureIsolation = 905,
  cudaErrorCapturedEvent = 907,
};
const char* cudaGetErrorString(cudaError_t error);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

struct cudaDeviceProp {
  char name[256];
  int major;
  int minor;
  int multiProcessorCount;
  size_t totalGlobalMem;
};
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
enum cudaDeviceAttr : int {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
};
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMemGetInfo(size_t* available, size_t* total);

cudaError_t cudaMalloc(void** block, size_t bytes);
cudaError_t cudaFree(void* block);
inline constexpr unsigned cudaHostAllocPortable = 1;
cudaError_t cudaHostAlloc(void** block, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* block);
inline constexpr unsigned cudaHostRegisterPortable = 1;
cudaError_t cudaHostRegister(void* block, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* block);

struct FakeStream;
struct FakeEvent;
using cudaStream_t = FakeStream*;
using cudaEvent_t = FakeEvent*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaEventDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;
enum cudaMemcpyKind : int { cudaMemcpyDefault = 4 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
// By this machine's clock.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to);
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);

struct FakeGraph;
struct FakeGraphExec;
using cudaGraph_t = FakeGraph*;
using cudaGraphExec_t = FakeGraphExec*;
enum cudaStreamCaptureMode : int { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

// Libraries: cuBLAS alone, where set_cublas has not taken it away, its product a loop on the stream (cublas.cpp).
void* open_library(const char* name);
void* find_symbol(void* library, const char* name);
// Whether there is one, and whether its products are right.
enum class FakeCublas : uint8_t { none, right, wrong };
void set_cublas(FakeCublas cublas);

// Work of the host's own making on a stream, such as a library's.
void enqueue_work(cudaStream_t stream, std::function<void()> work);

// The part of a launch that does not depend on the kernel's type. check: that it may run on its arguments, once more
// whenever a graph that holds it is launched.
cudaError_t enqueue_grid(cudaStream_t stream, dim3 grid, dim3 block, size_t dynamic_bytes, std::function<void()> kernel,
                         std::function<void()> check);

// Pointers among a kernel's arguments must be of memory it can reach, when it is enqueued and when it runs.
template <typename T>
void check_argument(const T& argument) {
  if constexpr (std::is_pointer_v<T>) {
    if (argument != nullptr) check_addressable(argument, 1);
  }
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
                   Arguments... arguments) {
  const auto bind = [&](Parameters... parameters) {
    const auto check = [parameters...] { (check_argument(parameters), ...); };
    check();
    return enqueue_grid(
        stream, grid, block, dynamic_bytes, [kernel, parameters...] { kernel(parameters...); }, check);
  };
  return bind(arguments...);
}

}  // namespace spillway::emulation

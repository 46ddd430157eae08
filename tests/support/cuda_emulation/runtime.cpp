#include "tests/support/cuda_emulation/runtime.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cuda/device_memory.cuh"
#include "tests/support/cuda_emulation/machine.h"

namespace spillway::emulation {

void restart(uint64_t seed) {
  Lock lock(machine().mutex);
  machine().check_empty();
  if (!machine().streams.empty() || !machine().events.empty()) fault("streams or events were never destroyed");
  if (!machine().graphs.empty() || !machine().execs.empty()) fault("graphs were never destroyed");
  machine().calls = {};
  machine().refuses_graphs = false;
  machine().random = RandomBits(seed);
  constexpr uint64_t kStepsOfAPriority[] = {1, 8, 64};
  machine().steps_of_a_priority = kStepsOfAPriority[seed % std::size(kStepsOfAPriority)];
  machine().presence = Presence::device;
  machine().likeness = {};
  machine().most_pinned = SIZE_MAX;
  machine().taken = 0;
  machine().left_at_next_reservation = SIZE_MAX;
}

void abandon() {
  Lock lock(machine().mutex);
  machine().drop_all();
}

void set_presence(Presence presence) {
  Lock lock(machine().mutex);
  machine().presence = presence;
}

void set_likeness(Likeness likeness) {
  Lock lock(machine().mutex);
  machine().likeness = likeness;
}

void limit_pinned(size_t bytes) {
  Lock lock(machine().mutex);
  machine().most_pinned = bytes;
}

void refuse_graphs() {
  Lock lock(machine().mutex);
  machine().refuses_graphs = true;
}

HostCalls host_calls() {
  Lock lock(machine().mutex);
  return machine().calls;
}

void take_device_memory(size_t bytes) {
  Lock lock(machine().mutex);
  machine().taken = bytes;
}

void leave_at_next_reservation(size_t bytes) {
  Lock lock(machine().mutex);
  machine().left_at_next_reservation = bytes;
}

void check_addressable(const void* data, size_t bytes) {
  // A kernel runs under the lock of whoever waits; to TSan its fibers are threads that do not hold it.
  std::unique_lock<std::recursive_mutex> lock(machine().mutex, std::defer_lock);
  if (!Block::running()) lock.lock();
  if (machine().find(data, bytes) == nullptr) {
    fault(fmt::format("{} bytes at {} are neither device memory nor pinned", bytes, data));
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorHostMemoryAlreadyRegistered:
      return "part or all of the requested memory range is already mapped";
    case cudaErrorHostMemoryNotRegistered:
      return "pointer does not correspond to a registered memory region";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureIsolation:
      return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
  }
  return "unrecognized error code";
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().presence == Presence::no_driver ? 0 : 13000;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().presence == Presence::device ? 1 : 0;
  if (machine().presence == Presence::no_driver) return cudaErrorInsufficientDriver;
  return *count == 1 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  const Likeness& likeness = machine().likeness;
  *properties = {.name = "emulated",
                 .major = likeness.major,
                 .minor = likeness.minor,
                 .multiProcessorCount = likeness.multiprocessors,
                 .totalGlobalMem = kDeviceBytes};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  const Likeness& likeness = machine().likeness;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = likeness.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = likeness.major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = likeness.minor;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  Lock lock(machine().mutex);
  machine().context = machine().context || device == 0;
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  Lock lock(machine().mutex);
  *total = kDeviceBytes;
  *available = machine().device_free();
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** block, size_t bytes) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().reserve(block, bytes, true);
}

cudaError_t cudaFree(void* block) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().release(block, true);
}

cudaError_t cudaHostAlloc(void** block, size_t bytes, unsigned) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().reserve(block, bytes, false);
}

cudaError_t cudaFreeHost(void* block) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().release(block, false);
}

cudaError_t cudaHostRegister(void* block, size_t bytes, unsigned) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().pin(block, bytes);
}

cudaError_t cudaHostUnregister(void* block) {
  Lock lock(machine().mutex);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  return machine().unpin(block);
}

}  // namespace spillway::emulation

namespace spillway::cuda {

bool free_without_context(int, uint64_t* bytes) {
  emulation::Lock lock(emulation::machine().mutex);
  *bytes = emulation::machine().device_room() - (emulation::machine().context ? emulation::kContextBytes : 0);
  return true;
}

}  // namespace spillway::cuda

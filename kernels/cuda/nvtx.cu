// NVTX: ranges and names for a tool that the process was started under (Nsight Systems, Nsight Compute). Headers only:
// without a tool nothing is loaded and no domain comes to be, by which that is known. A toolkit without them makes a
// module that no tool sees ranges of.
#include "kernels/cuda/launchers.cuh"

#if __has_include(<nvtx3/nvToolsExtCudaRt.h>)
#include <nvtx3/nvToolsExtCudaRt.h>

namespace spillway::cuda {
namespace {

nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t ours = nvtxDomainCreateA("spillway");
  return ours;
}

}  // namespace

bool profiled() { return domain() != nullptr; }

void push_range(const char* name, uint64_t bytes) {
  nvtxEventAttributes_t attributes = {};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  if (bytes > 0) {
    attributes.payloadType = NVTX_PAYLOAD_TYPE_UNSIGNED_INT64;
    attributes.payload.ullValue = bytes;
  }
  nvtxDomainRangePushEx(domain(), &attributes);
}

void pop_range() { nvtxDomainRangePop(domain()); }

void name_stream(CudaStream stream, const char* name) { nvtxNameCudaStreamA(static_cast<cudaStream_t>(stream), name); }

}  // namespace spillway::cuda

#else

namespace spillway::cuda {

bool profiled() { return false; }
void push_range(const char*, uint64_t) {}
void pop_range() {}
void name_stream(CudaStream, const char*) {}

}  // namespace spillway::cuda

#endif

// CudaOps: the module's kernels as Ops. Descriptors travel as kernel parameters into a ring in the scratch, in the
// stream's own order: nothing waits for a copy engine that is busy with weights, and nothing of the host is read later.
#pragma once

#include <memory>

#include "kernels/cuda_context.h"
#include "kernels/ops.h"

namespace spillway {

// The context outlives the operations. Streams are CudaDeviceStreams of the same context, one in use at a time.
// graphs: whether the layers of decode steps are replayed as CUDA graphs (kernels/cuda_replay.h).
std::unique_ptr<Ops> make_cuda_ops(CudaContext& context, bool graphs);

}  // namespace spillway

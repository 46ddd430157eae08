// Of the fake runtime: streams, events, copies, launches, graphs.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "tests/support/cuda_emulation/machine.h"

namespace spillway::emulation {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Lock lock(machine().mutex);
  machine().streams.push_back(std::make_unique<FakeStream>());
  machine().streams.back()->priority = machine().random.next();
  *stream = machine().streams.back().get();
  return cudaSuccess;
}

// CUDA lets the work of a destroyed stream run on; nobody could say when it has ended, so here it is a fault.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(machine().mutex);
  if (!existing(stream).queue.empty() || existing(stream).capture) {
    fault_unless_unwinding("a stream is destroyed while it has work");
  }
  std::erase_if(machine().streams, [stream](const auto& known) { return known.get() == stream; });
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(machine().mutex);
  const FakeStream& waited = existing(stream);
  if (machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  if (waited.capture != nullptr) fault("a stream is waited for while another thread captures it");
  machine().run_until([&] { return waited.queue.empty(); });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(machine().mutex);
  const auto& state = existing(event).state;
  FakeStream& waiting = existing(stream);
  if (waiting.capture != nullptr) {
    if (state->captured == waiting.capture->number) return cudaSuccess;  // one stream: what was captured comes before
    waiting.capture->spoilt = true;
    return cudaErrorStreamCaptureIsolation;
  }
  if (state->captured != 0) fault("a second stream is drawn into a capture, which is not emulated");
  machine().enqueue(waiting, {nullptr, state, state->recorded});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Lock lock(machine().mutex);
  auto made = std::make_unique<FakeEvent>();
  made->state->timed = (flags & cudaEventDisableTiming) == 0;
  *event = made.get();
  machine().events[made.get()] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(machine().mutex);
  existing(event);
  machine().events.erase(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(machine().mutex);
  const auto& state = existing(event).state;
  FakeStream& recording = existing(stream);
  state->captured = recording.capture != nullptr ? recording.capture->number : 0;
  if (recording.capture != nullptr) return cudaSuccess;
  const uint64_t ticket = ++state->recorded;
  const auto complete = [state, ticket] {
    state->completed = std::max(state->completed, ticket);
    if (state->timed) state->completed_at = std::chrono::steady_clock::now();
  };
  machine().enqueue(recording, {complete, nullptr, 0, {}, true});
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  Lock lock(machine().mutex);
  const EventState& first = *existing(from).state;
  const EventState& second = *existing(to).state;
  for (const EventState* state : {&first, &second}) {
    if (!state->timed || state->recorded == 0) return cudaErrorInvalidValue;
    if (state->completed < state->recorded) return cudaErrorNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(second.completed_at - first.completed_at).count();
  return cudaSuccess;
}

// Time passes while the host asks.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(machine().mutex);
  const auto state = existing(event).state;
  const bool captures = machine().spoils_a_capture();
  if (state->captured != 0) return cudaErrorCapturedEvent;
  if (captures) return cudaErrorStreamCaptureUnsupported;
  if (state->completed < state->recorded) machine().step();
  return state->completed >= state->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(machine().mutex);
  const auto state = existing(event).state;
  const bool captures = machine().spoils_a_capture();
  if (state->captured != 0) return cudaErrorCapturedEvent;
  if (captures) return cudaErrorStreamCaptureUnsupported;
  machine().run_until([&] { return state->completed >= state->recorded; });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  Lock lock(machine().mutex);
  const bool pageable =
      machine().most_pinned != SIZE_MAX && (!machine().find(destination, bytes) || !machine().find(source, bytes));
  const auto run = [=] {
    if (!pageable) {
      check_addressable(destination, bytes);
      check_addressable(source, bytes);
    }
    std::memmove(destination, source, bytes);
  };
  if (!pageable) {
    check_addressable(destination, bytes);
    check_addressable(source, bytes);
  }
  FakeStream& queue = existing(stream);
  if (pageable && machine().spoils_a_capture()) return cudaErrorStreamCaptureUnsupported;
  if (queue.capture == nullptr) machine().calls.copies++;
  machine().enqueue(queue, {run, nullptr, 0});
  if (pageable) machine().run_until([&] { return queue.queue.empty(); });
  return cudaSuccess;
}

void enqueue_work(cudaStream_t stream, std::function<void()> work) {
  Lock lock(machine().mutex);
  machine().enqueue(existing(stream), {std::move(work), nullptr, 0});
}

cudaError_t enqueue_grid(cudaStream_t stream, dim3 grid, dim3 block, size_t dynamic_bytes, std::function<void()> kernel,
                         std::function<void()> check) {
  Lock lock(machine().mutex);
  const bool fits = grid.count() > 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 &&
                    block.count() > 0 && block.count() <= kMostThreads && dynamic_bytes <= kMostSharedBytes;
  if (!fits) return cudaErrorInvalidValue;
  FakeStream& queue = existing(stream);
  if (queue.capture == nullptr) machine().calls.kernels++;
  machine().enqueue(queue, {[=, kernel = std::move(kernel)] { machine().run_grid(grid, block, dynamic_bytes, kernel); },
                            nullptr, 0, std::move(check)});
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Lock lock(machine().mutex);
  if (machine().refuses_graphs) return cudaErrorNotSupported;
  FakeStream& captured = existing(stream);
  if (captured.capture != nullptr) {
    captured.capture->spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  captured.capture = std::make_unique<Capture>(Capture{++machine().captures, std::this_thread::get_id(), {}});
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(machine().mutex);
  *graph = nullptr;
  FakeStream& captured = existing(stream);
  if (captured.capture == nullptr) return cudaErrorInvalidValue;
  const std::unique_ptr<Capture> capture = std::move(captured.capture);
  if (capture->spoilt) return cudaErrorStreamCaptureInvalidated;
  auto made = std::make_unique<FakeGraph>(FakeGraph{std::move(capture->operations)});
  *graph = made.get();
  machine().graphs[made.get()] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Lock lock(machine().mutex);
  const auto found = machine().graphs.find(graph);
  if (found == machine().graphs.end()) fault("a graph that does not exist");
  auto made = std::make_unique<FakeGraphExec>();
  made->operations = found->second->operations;
  *exec = made.get();
  machine().execs[made.get()] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Lock lock(machine().mutex);
  const FakeGraphExec& launched = existing(exec);
  FakeStream& queue = existing(stream);
  if (queue.capture != nullptr) fault("a graph within a graph is not emulated");
  machine().calls.graphs++;
  for (const Operation& operation : launched.operations) {
    if (operation.check) operation.check();
    queue.queue.push_back(operation);
  }
  ++*launched.under_way;
  queue.queue.push_back({[under_way = launched.under_way] { --*under_way; }, nullptr, 0, {}, true});
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Lock lock(machine().mutex);
  if (machine().graphs.erase(graph) == 0) fault("a graph that does not exist");
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock(machine().mutex);
  if (*existing(exec).under_way > 0) fault_unless_unwinding("a graph is destroyed while it runs");
  machine().execs.erase(exec);
  return cudaSuccess;
}

}  // namespace spillway::emulation

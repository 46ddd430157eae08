#include "kernels/cuda_wait_meter.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

CudaWaitMeter::CudaWaitMeter(CudaContext& context, CudaStream stream)
    : context_(context), stream_(stream), waits_(kWaits) {
  for (Wait& one : waits_) {
    for (CudaEvent* event : {&one.begin, &one.end}) {
      const CudaProblem problem = context_.ask(context_.table().make_timed_event, event);
      if (problem == nullptr) continue;
      throw Error(ErrorKind::io, fmt::format("{}: waits cannot be timed: {}", context_.device_name(), problem));
    }
  }
}

CudaWaitMeter::~CudaWaitMeter() {
  for (const Wait& one : waits_) {
    context_.ask(context_.table().end_event, one.begin);
    context_.ask(context_.table().end_event, one.end);
  }
}

void CudaWaitMeter::begin() {
  if (begun_ == collected_ + kWaits) collect(true);
  context_.ask(context_.table().record, wait(begun_).begin, stream_);
}

void CudaWaitMeter::end(uint8_t arrival) {
  Wait& one = wait(begun_++);
  one.arrival = arrival;
  context_.ask(context_.table().record, one.end, stream_);
}

// After a failure no time is known, and none is counted.
void CudaWaitMeter::collect(bool wait_for_some) {
  const SpillwayCudaTable& table = context_.table();
  if (wait_for_some) context_.ask(table.event_wait, wait(collected_ + (begun_ - collected_) / 2).end);
  for (; collected_ < begun_; ++collected_) {
    const Wait& one = wait(collected_);
    bool done = false;
    const bool failed = context_.ask(table.event_done, one.end, &done) != nullptr;
    if (!failed && !done) return;
    float milliseconds = 0;
    if (failed || context_.ask(table.elapsed, one.begin, one.end, &milliseconds) != nullptr) continue;
    clock_.add(one.arrival, std::max<int64_t>(0, static_cast<int64_t>(1e6 * static_cast<double>(milliseconds))));
  }
}

}  // namespace spillway

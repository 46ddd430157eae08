#include "kernels/cuda_timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace spillway {

CudaTimeline::CudaTimeline(CudaContext& context, CudaStream stream, const std::string& stream_name)
    : context_(context), stream_(stream), track_(Trace::track(stream_name + " (device)")), calls_(kCalls) {
  const SpillwayCudaTable& table = context_.table();
  const auto must = [&](CudaProblem problem) {
    if (problem == nullptr) return;
    throw Error(ErrorKind::io, fmt::format("{}: no times of \"{}\": {}", context_.device_name(), stream_name, problem));
  };
  must(context_.ask(table.make_timed_event, &known_));
  for (Call& one : calls_) {
    must(context_.ask(table.make_timed_event, &one.begin));
    must(context_.ask(table.make_timed_event, &one.end));
  }
  must(context_.ask(table.record, known_, stream_));
  must(context_.ask(table.event_wait, known_));
  known_time_ = Trace::now();
}

CudaTimeline::~CudaTimeline() {
  const SpillwayCudaTable& table = context_.table();
  collect(true);
  for (const Call& one : calls_) {
    context_.ask(table.end_event, one.begin);
    context_.ask(table.end_event, one.end);
  }
  context_.ask(table.end_event, known_);
}

void CudaTimeline::begin(const char* what, uint64_t bytes) {
  if (begun_ == collected_ + kCalls) collect(true);
  Call& one = call(begun_);
  one.what = what;
  one.bytes = bytes;
  context_.ask(context_.table().record, one.begin, stream_);
}

void CudaTimeline::end() { context_.ask(context_.table().record, call(begun_++).end, stream_); }

// wait: for the oldest half of what has been enqueued at least.
void CudaTimeline::collect(bool wait) {
  const SpillwayCudaTable& table = context_.table();
  const uint64_t awaited = wait ? collected_ + (begun_ - collected_ + 1) / 2 : collected_;
  if (awaited > collected_) context_.ask(table.event_wait, call(awaited - 1).end);
  for (; collected_ < begun_; ++collected_) {
    Call& one = call(collected_);
    bool done = false;
    if (context_.ask(table.event_done, one.end, &done) != nullptr || !done) break;
    const int64_t from = host_time(one.begin);
    const int64_t to = std::max(from, host_time(one.end));
    Trace::span(track_, one.what, from, to, one.bytes);
    known_time_ = to;
    std::swap(known_, one.end);
  }
}

int64_t CudaTimeline::host_time(CudaEvent event) {
  float milliseconds = 0;
  context_.ask(context_.table().elapsed, known_, event, &milliseconds);
  return known_time_ + static_cast<int64_t>(1e6 * static_cast<double>(milliseconds));
}

}  // namespace spillway

#include "kernels/cuda_stream.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/spin.h"

namespace spillway {
namespace {

using namespace std::chrono_literals;

// A layer's choice is waited for so long; who waits for a disk's place in a ring leaves the core to others.
constexpr SpinLimit kWaitSpin{100us};

}  // namespace

CudaDeviceStream::CudaDeviceStream(CudaContext& context, std::string name, bool times_waits)
    : context_(context), name_(std::move(name)) {
  const auto must = [&](CudaProblem problem) {
    if (problem == nullptr) return;
    throw Error(ErrorKind::io, fmt::format("{}: no stream \"{}\": {}", context_.device_name(), name_, problem));
  };
  must(context_.ask(context_.table().make_stream, &stream_));
  context_.table().name_stream(stream_, name_.c_str());
  events_.resize(kEvents);
  for (CudaEvent& event : events_) must(context_.ask(context_.table().make_event, &event));
  if (times_waits) wait_meter_ = std::make_unique<CudaWaitMeter>(context_, stream_);
  if (Trace::on()) timeline_ = std::make_unique<CudaTimeline>(context_, stream_, name_);
}

CudaDeviceStream::~CudaDeviceStream() {
  const SpillwayCudaTable& table = context_.table();
  context_.ask(table.synchronize, stream_);
  if (list_.runs != nullptr) context_.ask(table.release_host, static_cast<void*>(list_.runs));
  timeline_.reset();
  wait_meter_.reset();
  for (CudaEvent event : events_) context_.ask(table.end_event, event);
  context_.ask(table.end_stream, stream_);
}

// A copy stays within one pinned block on either side.
void CudaDeviceStream::copy(void* destination, const void* source, uint64_t bytes) {
  auto* to = static_cast<std::byte*>(destination);
  const auto* from = static_cast<const std::byte*>(source);
  while (bytes > 0) {
    const uint64_t run = context_.run_length(from, context_.run_length(to, bytes));
    enqueue_bytes("copy", run, context_.table().copy, to, from, run);
    to += run;
    from += run;
    bytes -= run;
  }
}

// As parameters of a kernel: the copy engine has megabytes of weights before it.
void CudaDeviceStream::copy_few(void* destination, const void* source, uint64_t bytes) {
  constexpr uint64_t kFew = 16 << 10;
  constexpr uint64_t kWord = sizeof(uint32_t);
  const bool words = bytes % kWord == 0 && reinterpret_cast<uintptr_t>(destination) % kWord == 0;
  if (bytes > kFew || !words) return copy(destination, source, bytes);
  enqueue_bytes("copy", bytes, context_.table().put, destination, source, bytes);
}

void CudaDeviceStream::gather(std::span<const GatherRun> runs) {
  while (!runs.empty()) {
    const std::span<const GatherRun> listed = list_runs(runs);
    if (listed.empty()) continue;
    uint64_t bytes = 0;
    for (const GatherRun& run : listed) bytes += run.bytes;
    const CudaGatherRuns arguments = {.runs = listed.data(), .count = static_cast<int32_t>(listed.size())};
    enqueue_bytes("gather", bytes, context_.table().gather_runs, &arguments);
  }
}

// Takes runs off the front, and returns where the device finds them. What lies in memory that could not be pinned is
// copied instead.
std::span<const GatherRun> CudaDeviceStream::list_runs(std::span<const GatherRun>& runs) {
  if (list_.runs == nullptr) {
    void* block = nullptr;
    if (context_.ask(context_.table().reserve_host, kGatherRuns * sizeof(GatherRun), &block) != nullptr) {
      // Where so little cannot be pinned, hardly anything has been, and that was said.
      for (const GatherRun& run : std::exchange(runs, {})) copy(run.to, run.from, run.bytes);
      return {};
    }
    list_.runs = static_cast<GatherRun*>(block);
  }
  if (list_.used == kGatherRuns / 2) {
    list_.done[list_.half] = record().ticket;
    list_.half ^= 1;
    list_.used = 0;
    wait(list_.done[list_.half]);
  }
  const bool some_pageable = context_.any_pageable();
  GatherRun* first = list_.runs + list_.half * (kGatherRuns / 2) + list_.used;
  GatherRun* end = first;
  for (; !runs.empty() && list_.used < kGatherRuns / 2; runs = runs.subspan(1)) {
    const GatherRun& run = runs.front();
    if (run.bytes == 0) continue;
    constexpr uint64_t kWord = 16;
    SPILLWAY_CHECK(run.bytes % kWord == 0 && reinterpret_cast<uintptr_t>(run.from) % kWord == 0 &&
                   reinterpret_cast<uintptr_t>(run.to) % kWord == 0);
    if (some_pageable && context_.is_pageable(run.from, run.bytes)) {
      copy(run.to, run.from, run.bytes);
      continue;
    }
    *end++ = run;
    list_.used++;
  }
  return {first, end};
}

CudaDeviceStream* CudaDeviceStream::sibling(const Event& event) const {
  auto* other = dynamic_cast<CudaDeviceStream*>(event.timeline);
  return other != nullptr && &other->context_ == &context_ ? other : nullptr;
}

bool CudaDeviceStream::orders(const Event& event) const {
  return event.timeline == nullptr || sibling(event) != nullptr || event.done();
}

void CudaDeviceStream::wait_for(const Event& event) {
  if (event.timeline == nullptr || event.timeline == this) return;
  enqueue_held();
  // What is there already is not waited for, however far behind the device is.
  const bool timed = wait_meter_ && event.arrival != 0 && !event.done();
  if (timed) wait_meter_->begin();
  put_after(event);
  if (timed) wait_meter_->end(event.arrival);
}

void CudaDeviceStream::put_after(const Event& event) {
  const Event submitted = event.submitted();
  if (submitted.timeline == nullptr || submitted.timeline == this) return;
  const CudaDeviceStream* other = sibling(submitted);
  if (other == nullptr) return submitted.wait();
  if (!other->known_done(submitted.ticket)) {
    changed_ = true;
    context_.call("wait", context_.table().wait_for, stream_, other->event_of(submitted.ticket));
  }
}

Event CudaDeviceStream::record() {
  enqueue_held();
  if (!changed_) return {this, recorded_};
  const uint64_t ticket = recorded_ + 1;
  if (ticket > kEvents) wait(ticket - kEvents);
  context_.call("record", context_.table().record, event_of(ticket), stream_);
  recorded_ = ticket;
  changed_ = false;
  return {this, ticket};
}

void CudaDeviceStream::synchronize() {
  enqueue_held();
  const CudaProblem problem = context_.ask(context_.table().synchronize, stream_);  // whatever failed before
  context_.note("synchronize", problem);
  raise_done(recorded_);
  if (timeline_) timeline_->collect();
  if (wait_meter_) wait_meter_->collect();
  context_.throw_failure();
}

bool CudaDeviceStream::done(uint64_t ticket) {
  if (known_done(ticket)) return true;
  bool done = true;
  // After a failure everything counts as done; synchronize() says what failed.
  if (!context_.call("query", context_.table().event_done, event_of(ticket), &done)) done = true;
  if (done) raise_done(ticket);
  // A later ticket may have taken the event, and so this one is done.
  return done || known_done(ticket);
}

void CudaDeviceStream::wait(uint64_t ticket) {
  if (spin_until([&] { return done(ticket); }, kWaitSpin)) return;
  context_.call("wait", context_.table().event_wait, event_of(ticket));
  raise_done(ticket);
}

void CudaDeviceStream::raise_done(uint64_t ticket) {
  uint64_t known = done_.load(std::memory_order_relaxed);
  while (known < ticket && !done_.compare_exchange_weak(known, ticket, std::memory_order_acq_rel)) {
  }
}

}  // namespace spillway

#include "kernels/cuda_replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "kernels/check.h"

namespace spillway {
namespace {

// The device begins when the first of them have been handed over; the host pays for each.
constexpr int kLayersTogether = 4;
// Fewer are launched as they are: so short a run stands between bytes that are on their way, and those take longer.
constexpr size_t kLeastCalls = 4;
// Runs of one place that are remembered. Their kernels take device memory once they are a graph.
constexpr size_t kRunsOfAPlace = 4;

}  // namespace

void CudaReplay::begin_layer(CudaDeviceStream& stream, int layer) {
  if (!wanted_) return;
  SPILLWAY_CHECK(stream_ == nullptr || stream_ == &stream);
  if (stream_ == &stream && layer % kLayersTogether != 0) return;
  end();
  stream_ = &stream;
  layer_ = layer;
  part_ = 0;
}

void CudaReplay::end() {
  if (stream_ == nullptr) return;
  stream_->enqueue_held();
  stream_ = nullptr;
}

void CudaReplay::add(const char* what, CudaProblem (*function)(CudaStream, const CudaMatvec*),
                     const CudaMatvec& arguments) {
  HeldProduct product{{what, function, arguments}, {}};
  SPILLWAY_CHECK(arguments.parts_count >= 0 && static_cast<size_t>(arguments.parts_count) <= product.parts.size());
  std::copy_n(arguments.parts, arguments.parts_count, product.parts.begin());
  product.call.arguments.parts = nullptr;
  add(Call(product));
}

void CudaReplay::add(Call call) {
  calls_.push_back(std::move(call));
  stream_->hold(*this);
}

void CudaReplay::enqueue_held() {
  descriptors_.send(*stream_);
  if (calls_.empty()) return;
  made_ += calls_.size();
  if (const CudaGraph graph = graph_of_calls()) {
    stream_->enqueue("graph", context_.table().launch_graph, graph);
    replayed_ += calls_.size();
  } else {
    for (const Call& call : calls_) make(call, true);
  }
  calls_.clear();
  part_++;
}

// Null where the calls are to be made one by one.
CudaGraph CudaReplay::graph_of_calls() {
  if (calls_.size() < kLeastCalls || !problem_.empty()) return nullptr;
  std::vector<Run>& runs = runs_[{layer_, part_}];
  for (Run& run : runs) {
    if (run.calls != calls_) continue;
    run.used = ++clock_;
    if (run.graph == nullptr) run.graph = capture();
    return run.graph;
  }
  if (runs.size() == kRunsOfAPlace) {
    const auto oldest =
        std::min_element(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.used < b.used; });
    if (oldest->graph != nullptr) stream_->ask(context_.table().synchronize);  // it may be running
    drop(*oldest);
    runs.erase(oldest);
  }
  runs.push_back({calls_, nullptr, ++clock_});
  return nullptr;
}

CudaGraph CudaReplay::capture() {
  CudaProblem problem = stream_->ask(context_.table().begin_capture);
  CudaGraph graph = nullptr;
  if (problem == nullptr) {
    for (const Call& call : calls_) {
      const CudaProblem here = make(call, false);
      if (problem == nullptr) problem = here;
    }
    const CudaProblem at_end = stream_->ask(context_.table().end_capture, &graph);
    if (problem == nullptr) problem = at_end;
  }
  if (problem == nullptr) {
    graphs_++;
    return graph;
  }
  if (graph != nullptr) context_.ask(context_.table().end_graph, graph);
  problem_ = problem;
  return nullptr;
}

// surfaces: a problem is the stream's, as that of any other call.
CudaProblem CudaReplay::make(const Call& call, bool surfaces) {
  const auto ask = [&](const char* what, auto function, const auto& arguments) -> CudaProblem {
    if (!surfaces) return stream_->ask(function, &arguments);
    stream_->enqueue(what, function, &arguments);
    return nullptr;
  };
  return std::visit(
      [&](const auto& held) {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, HeldProduct>) {
          CudaMatvec arguments = held.call.arguments;
          arguments.parts = held.parts.data();
          return ask(held.call.what, held.call.function, arguments);
        } else {
          return ask(held.what, held.function, held.arguments);
        }
      },
      call);
}

void CudaReplay::drop(Run& run) {
  if (run.graph == nullptr) return;
  context_.ask(context_.table().end_graph, run.graph);
  run.graph = nullptr;
  graphs_--;
}

void CudaReplay::forget() {
  for (auto& [place, runs] : runs_) {
    for (Run& run : runs) drop(run);
  }
  runs_.clear();
}

std::string CudaReplay::report() const {
  if (!wanted_) return "CUDA graphs: none, as asked (--no-cuda-graphs)";
  if (!problem_.empty()) return fmt::format("CUDA graphs: none: {}", problem_);
  if (made_ == 0) return {};
  return fmt::format(
      "CUDA graphs: {} of {} calls of decode steps replayed, {} graph{}; the others came once, or stand "
      "between waits for the link",
      replayed_, made_, graphs_, graphs_ == 1 ? "" : "s");
}

}  // namespace spillway

// CudaReplay: the calls of a decode step's layers, which come again with every step, replayed as CUDA graphs.
//
// Calls are held back and handed over a run at a time: a few layers together, or fewer where the stream has to wait for
// something (bytes on their way), to record an event, or to copy; so nothing but kernels is ever in a graph. A run is
// looked up by what it would launch, kernel by kernel with all arguments, and its graph is launched only if nothing
// differs: what is baked into a graph cannot be out of date. What does differ from step to step (page lists, counts)
// lies in device memory, written before the run. A run is captured when it comes for the second time: then its kernels
// have been loaded, and what comes once costs nothing. What cannot be captured is launched call by call, and said.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/cuda_context.h"
#include "kernels/cuda_descriptors.h"
#include "kernels/cuda_stream.h"

namespace spillway {

template <typename Arguments>
struct HeldCall {
  const char* what = nullptr;
  CudaProblem (*function)(CudaStream, const Arguments*) = nullptr;
  Arguments arguments;

  bool operator==(const HeldCall&) const = default;
};

// A product, with the parts that its arguments would point to.
struct HeldProduct {
  HeldCall<CudaMatvec> call;  // parts: null
  std::array<MatmulPart, 4> parts;

  bool operator==(const HeldProduct&) const = default;
};

class CudaReplay final : public HeldWork {
 public:
  // graphs: false where they are not wanted; then nothing is ever held.
  // descriptors: of the calls; sent before a run.
  CudaReplay(CudaContext& context, CudaDescriptors& descriptors, bool graphs)
      : context_(context), descriptors_(descriptors), wanted_(graphs) {}
  ~CudaReplay() { forget(); }
  CudaReplay(const CudaReplay&) = delete;

  // Calls of `layer` follow, until the next layer or end().
  void begin_layer(CudaDeviceStream& stream, int layer);
  void end();
  bool holds() const { return stream_ != nullptr; }

  void add(const char* what, CudaProblem (*function)(CudaStream, const CudaMatvec*), const CudaMatvec& arguments);
  template <typename Arguments>
  void add(const char* what, CudaProblem (*function)(CudaStream, const Arguments*), const Arguments& arguments) {
    add(Call(HeldCall<Arguments>{what, function, arguments}));
  }
  // Descriptors have been written that the calls to come read.
  void note_descriptors() { stream_->hold(*this); }

  // Of CudaDeviceStream: enqueues what is held.
  void enqueue_held() override;
  // Drops all graphs; none of them may be running.
  void forget();
  std::string report() const;

 private:
  using Call =
      std::variant<HeldCall<CudaDequantize>, HeldCall<CudaNorm>, HeldCall<CudaLayerNorm>, HeldCall<CudaAdd>,
                   HeldCall<CudaScale>, HeldProduct, HeldCall<CudaRotate>, HeldCall<CudaAppend>,
                   HeldCall<CudaRotateAppend>, HeldCall<CudaAttend>, HeldCall<CudaMerge>, HeldCall<CudaActivate>,
                   HeldCall<CudaPartialKeys>, HeldCall<CudaScoreKeys>, HeldCall<CudaKeyBounds>,
                   HeldCall<CudaScoreBounds>, HeldCall<CudaSumSelected>, HeldCall<CudaChooseGranules>,
                   HeldCall<CudaAttendSelected>, HeldCall<CudaRoute>, HeldCall<CudaExperts>, HeldCall<CudaCombine>>;
  struct Run {
    std::vector<Call> calls;
    CudaGraph graph = nullptr;
    uint64_t used = 0;
  };
  void add(Call call);
  CudaGraph graph_of_calls();
  CudaGraph capture();
  void drop(Run& run);
  CudaProblem make(const Call& call, bool surfaces);

  CudaContext& context_;
  CudaDescriptors& descriptors_;
  bool wanted_;
  std::string problem_;                                   // why there are no graphs
  CudaDeviceStream* stream_ = nullptr;                    // whose calls are held
  int layer_ = 0;                                         // the first of those together
  int part_ = 0;                                          // runs since
  std::vector<Call> calls_;                               // held
  std::map<std::pair<int, int>, std::vector<Run>> runs_;  // by layer and part
  uint64_t clock_ = 0;
  uint64_t graphs_ = 0;  // there now
  uint64_t made_ = 0;    // calls
  uint64_t replayed_ = 0;
};

}  // namespace spillway

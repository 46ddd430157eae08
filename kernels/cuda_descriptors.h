// CudaDescriptors: the lists that calls are made of (spans, runs, tasks) on their way to a ring in device memory, in
// the stream's order. They travel as parameters of small kernels: a copy would queue behind megabytes of weights. What
// lies in the ring is known here, so that a list which is there already is not sent again, and of one that differs only
// the words that do: of a decode step's lists, a few for each layer, however long the context is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/module.h"
#include "kernels/cuda_context.h"
#include "kernels/cuda_stream.h"

namespace spillway {

class CudaDescriptors {
 public:
  static constexpr uint64_t kAlignment = 16;

  explicit CudaDescriptors(CudaContext& context) : context_(context) {}
  CudaDescriptors(const CudaDescriptors&) = delete;

  // Device memory of `bytes`, a multiple of kAlignment; null takes it back.
  void set_ring(std::byte* ring, uint64_t bytes);
  bool has_ring() const { return ring_ != nullptr; }
  uint64_t bytes() const { return bytes_; }

  // The next list lies at the ring's begin. Whatever has been written must have been sent.
  void rewind() { used_ = 0; }
  // A place for a list of at most bytes(). It is written again in the stream's order, after its readers: so one stream
  // at a time computes.
  std::byte* room(CudaDeviceStream& stream, uint64_t bytes);
  // Bytes for a place, multiples of 4; taken now, there after send().
  void write(std::byte* place, const void* bytes, uint64_t count);
  // Enqueues what differs from what lies there.
  void send(CudaDeviceStream& stream);

 private:
  void forget();
  void write_word(uint32_t number, const std::byte* from);
  void send_words(CudaDeviceStream& stream);
  void send_ranges(CudaDeviceStream& stream);

  CudaContext& context_;
  std::byte* ring_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t used_ = 0;
  uint64_t failures_ = 0;            // of the context, when what is known was known
  std::vector<uint32_t> there_;      // words of the ring, in the stream's order
  std::vector<uint8_t> known_;       // of each word, whether anything was written yet
  std::vector<uint32_t> to_send_;    // words, by their number
  std::vector<CudaWord> scattered_;  // for one call
};

}  // namespace spillway

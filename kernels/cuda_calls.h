// CudaCalls: how operations reach a stream of the CUDA module: held back with those of a decode step's layers
// (CudaReplay) or at once, their descriptors put on the device before them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kernels/check.h"
#include "kernels/cuda_context.h"
#include "kernels/cuda_descriptors.h"
#include "kernels/cuda_replay.h"
#include "kernels/cuda_stream.h"

namespace spillway {

// What a decode step's layers are made of.
template <typename Arguments>
constexpr bool kMayBeHeld = !std::is_same_v<Arguments, CudaAttendChunk> && !std::is_same_v<Arguments, CudaCandidates> &&
                            !std::is_same_v<Arguments, CudaSeal> && !std::is_same_v<Arguments, CudaSumAttention>;

class CudaCalls {
 protected:
  static constexpr uint64_t kAlignment = CudaDescriptors::kAlignment;

  CudaCalls(CudaContext& context, bool graphs)
      : table_(context.table()), descriptors_(context), replay_(context, descriptors_, graphs) {}

  template <typename Arguments>
  void enqueue(Stream& stream, const char* what, CudaProblem (*function)(CudaStream, const Arguments*),
               const Arguments& arguments) {
    if constexpr (kMayBeHeld<Arguments>) {
      if (replay_.holds()) return replay_.add(what, function, arguments);
    }
    static_cast<CudaDeviceStream&>(stream).enqueue(what, function, &arguments);
  }

  std::byte* room(Stream& stream, uint64_t bytes) {
    return descriptors_.room(static_cast<CudaDeviceStream&>(stream), bytes);
  }
  void put(Stream& stream, std::byte* there, const void* bytes, uint64_t count) {
    descriptors_.write(there, bytes, count);
    if (replay_.holds()) return replay_.note_descriptors();
    descriptors_.send(static_cast<CudaDeviceStream&>(stream));
  }

  // Of a call that comes again with every step: a power of two, so that it stays the same while the context grows,
  // until that has doubled. How many there are, the device is told in device memory.
  size_t room_for(size_t count) const { return replay_.holds() ? std::bit_ceil(count) : count; }
  // A number, and the list from the next multiple of kAlignment on.
  template <typename T>
  void put_counted(Stream& stream, std::byte* there, int32_t number, std::span<const T> list) {
    const int32_t first[kAlignment / sizeof(int32_t)] = {number};
    put(stream, there, first, sizeof first);
    put(stream, there + kAlignment, list.data(), list.size_bytes());
  }

  // Puts descriptors on the device and calls use(there, count, index of the first): once, or for one ringful after
  // another.
  template <typename T, typename Use>
  void in_pieces(Stream& stream, std::span<const T> all, const Use& use) {
    const size_t most = descriptors_.bytes() / sizeof(T);
    SPILLWAY_CHECK(most > 0 || all.empty());
    for (size_t first = 0; first < all.size(); first += most) {
      const std::span<const T> piece = all.subspan(first, std::min(most, all.size() - first));
      std::byte* there = room(stream, piece.size_bytes());
      put(stream, there, piece.data(), piece.size_bytes());
      use(reinterpret_cast<const T*>(there), static_cast<int32_t>(piece.size()), first);
    }
  }

  const SpillwayCudaTable& table_;
  CudaDescriptors descriptors_;
  CudaReplay replay_;
};

}  // namespace spillway

// Decode attention over chosen granules (kernels/selection.h), wherever in device memory each of them lies: as
// attention.cu over the pages of a span, in the same order of additions. A warp has a page's worth of tokens; it looks
// up their places first, so that what it loads next depends on nothing that is on its way.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launchers.cuh"
#include "kernels/cuda/packed_page.cuh"

namespace spillway::cuda {
namespace {

struct SelectedLaunch {
  const SelectedKv* kv;
  const std::byte* q;
  std::byte* states;
  uint64_t states_stride;
  PackedPage packed;
  AttendSizes sizes;
};

constexpr uint64_t kPackedBit = 1;  // of the address of keys, which is a multiple of 16

// The granules of a warp's tokens. keys, values [kPageTokens]: their addresses.
template <bool kPacks>
struct GranulesOfHead {
  const Shared<uint64_t>& keys;
  const Shared<uint64_t>& values;
  int granule_tokens;
  const PackedPage& layout;
  int head_dim;

  // 16 bytes of halves of an element's row: as they lie, or made of codes.
  template <bool kPerChannel>
  struct Piece16 {
    uint4 held;
    bool packed;
    PackedPiece<kPerChannel> codes;
    PieceScales<kPerChannel> scales;
  };

  template <bool kPerChannel>
  __device__ __forceinline__ void load(Piece16<kPerChannel>& piece, bool value, int token, int channel,
                                       bool there) const {
    piece.held = {0, 0, 0, 0};
    piece.packed = false;
    if (!there) return;
    const int granule = token / granule_tokens;
    const int in_granule = token % granule_tokens;
    const uint64_t key = keys[granule];
    if constexpr (kPacks) {
      if ((key & kPackedBit) != 0) {
        // The page that the granule would be the first one of.
        const std::byte* page = reinterpret_cast<const std::byte*>(key - kPackedBit) - layout.header_bytes;
        piece.packed = true;
        piece.codes.load(layout, page, in_granule, value, channel, true);
        if constexpr (kPerChannel) {
          piece.scales.load_channels(reinterpret_cast<const std::byte*>(static_cast<uint64_t>(values[granule])),
                                     channel);
        }
        return;
      }
    }
    const uint64_t address = value ? static_cast<uint64_t>(values[granule]) : key;
    piece.held = load_stream(reinterpret_cast<const std::byte*>(address) + 2 * (in_granule * head_dim + channel));
  }

  template <typename Kv, int kLanes, int kInFlight, bool kPerChannel, typename Visit>
  __device__ __forceinline__ void for_each(bool value, const LanePlace<Kv, kLanes>& place, int tokens,
                                           const Visit& visit) const {
    constexpr int kTokens = kWarpLanes / kLanes;
    for (int first = 0; first < tokens; first += kTokens * kInFlight) {
      Piece16<kPerChannel> held[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        const int token = first + i * kTokens + place.token;
        load(held[i], value, token, place.piece, token < tokens && place.in_head);
      }
#pragma unroll
      for (int i = 0; i < kInFlight; i++) {
        uint4 halves[1] = {held[i].held};
        if constexpr (kPacks) {
          if (held[i].packed) halves[0] = held[i].codes.halves(layout.bits, held[i].scales);
        }
        float elements[Kv::kCount];
        Kv::unpack(halves, elements);
        visit(first + i * kTokens + place.token, elements);
      }
    }
  }

  template <typename Kv, int kLanes, int kHeads, typename Visit>
  __device__ __forceinline__ void for_each_token(bool value, const LanePlace<Kv, kLanes>& place, int /*hidden*/,
                                                 int tokens, const Visit& visit) const {
    static_assert(Kv::kSixteens == 1);
    constexpr int kInFlight = loads_in_flight(kHeads, 1);
    if constexpr (kPacks) {
      // Scales of channels take as many registers again.
      if (!value && layout.header_bytes > 0)
        return for_each<Kv, kLanes, kInFlight / 2, true>(value, place, tokens, visit);
    }
    for_each<Kv, kLanes, kInFlight, false>(value, place, tokens, visit);
  }
};

// How many of them have tokens: those without are behind the others.
__device__ __forceinline__ int count_places(const GranulePlace* places, int count) {
  int low = 0;
  while (low < count) {
    const int middle = (low + count) / 2;
    if (places[middle].tokens > 0) {
      low = middle + 1;
    } else {
      count = middle;
    }
  }
  return low;
}

// Block (state, KV head, kHeads of its group).
template <typename Kv, int kLanes, int kHeads, bool kPacks>
__global__ void __launch_bounds__(kAttendThreads, 2) attend_granules(SelectedLaunch a) {
  SPILLWAY_SHARED(uint64_t, addresses, kAttendWarps * 2 * kPageTokens);
  SPILLWAY_SHARED(float, max_of, kAttendWarps* kHeads);
  SPILLWAY_SHARED(float, sum_of, kAttendWarps* kHeads);
  const Shared<float> regions = dynamic_shared<float>(0, kAttendWarps * a.sizes.region);
  const SelectedKv kv = *a.kv;
  const int state = static_cast<int>(blockIdx.x);
  const int kv_head = static_cast<int>(blockIdx.y);
  const int first_granule = state * kv.granules_per_state();
  if (first_granule >= kv.granules) return;
  const int left = kv.granules - first_granule;
  const GranulePlace* places = kv.places + static_cast<int64_t>(kv_head) * kv.granules + first_granule;
  int granules = left < kv.granules_per_state() ? left : kv.granules_per_state();
  if (places[granules - 1].tokens == 0) granules = count_places(places, granules);
  const int all_tokens = granules == 0 ? 0 : (granules - 1) * kv.granule_tokens + places[granules - 1].tokens;

  const int first_of_group = static_cast<int>(blockIdx.z) * kHeads;
  const int heads = a.sizes.group - first_of_group < kHeads ? a.sizes.group - first_of_group : kHeads;
  const int64_t head = static_cast<int64_t>(kv_head) * a.sizes.group + first_of_group;
  const int lane = lane_index();
  const int warp = warp_index();
  const int of_warp = all_tokens - warp * kPageTokens;
  const int tokens = of_warp < kPageTokens ? of_warp : kPageTokens;
  if (tokens > 0) {
    const Shared<uint64_t> keys = addresses + warp * 2 * kPageTokens;
    const Shared<uint64_t> values = keys + kPageTokens;
    const int granules_of_page = kPageTokens / kv.granule_tokens;
    for (int i = lane; i * kv.granule_tokens < tokens; i += kWarpLanes) {
      const GranulePlace place = places[warp * granules_of_page + i];
      keys[i] = reinterpret_cast<uint64_t>(place.keys) | (place.packed != 0 ? kPackedBit : 0);
      values[i] = reinterpret_cast<uint64_t>(place.values);
    }
    __syncwarp();
    const GranulesOfHead<kPacks> source = {keys, values, kv.granule_tokens, a.packed, a.sizes.head_dim};
    const float* q = reinterpret_cast<const float*>(a.q) + head * a.sizes.head_dim;
    const Shared<float> mine = regions + warp * a.sizes.region;
    score_page<Kv, kLanes, kHeads>(a.sizes, q, heads, source, tokens, mine, lane);
    __syncwarp();
    weigh_page<kHeads>(0, tokens, mine, max_of + warp * kHeads, sum_of + warp * kHeads, lane);
    __syncwarp();
    sum_page<Kv, kLanes, kHeads>(a.sizes, source, 0, tokens, mine, lane);
  }
  __syncthreads();
  const int pages = (all_tokens + kPageTokens - 1) / kPageTokens;
  float* states = reinterpret_cast<float*>(a.states + state * a.states_stride) + head * a.sizes.state_floats;
  fold_pages<kHeads>(a.sizes, 0, pages, heads, regions, max_of, sum_of, states);
}

template <int kLanes, int kHeads, bool kPacks>
cudaError_t launch_heads(cudaStream_t stream, const SelectedLaunch& a, int states, int kv_heads) {
  const dim3 grid(static_cast<uint32_t>(states), static_cast<uint32_t>(kv_heads),
                  static_cast<uint32_t>(ceil_div(a.sizes.group, kHeads)));
  SelectedLaunch sized = a;
  sized.sizes.region = kHeads * (a.sizes.head_dim > kPageTokens ? a.sizes.head_dim : kPageTokens);
  return launch(attend_granules<Piece<ElementsF16, 1>, kLanes, kHeads, kPacks>, grid, dim3(kAttendThreads),
                kAttendWarps * sized.sizes.region * sizeof(float), stream, sized);
}

// kMostHeads: of a group, in one thread block; the others have further ones.
template <int kLanes, int kMostHeads, bool kPacks>
cudaError_t launch_lanes(cudaStream_t stream, const SelectedLaunch& a, int states, int kv_heads) {
  if (a.sizes.group == 1) return launch_heads<kLanes, 1, kPacks>(stream, a, states, kv_heads);
  if (a.sizes.group == 2) return launch_heads<kLanes, 2, kPacks>(stream, a, states, kv_heads);
  if (a.sizes.group <= 4) return launch_heads<kLanes, 4, kPacks>(stream, a, states, kv_heads);
  return launch_heads<kLanes, kMostHeads, kPacks>(stream, a, states, kv_heads);
}

// As attention.cu cuts it.
template <bool kPacks>
cudaError_t launch_format(cudaStream_t stream, const SelectedLaunch& a, int states, int kv_heads) {
  if (a.sizes.head_dim <= 64) return launch_lanes<8, 8, kPacks>(stream, a, states, kv_heads);
  if (a.sizes.head_dim <= 128) return launch_lanes<16, 8, kPacks>(stream, a, states, kv_heads);
  return launch_lanes<kWarpLanes, 4, kPacks>(stream, a, states, kv_heads);
}

}  // namespace

cudaError_t launch_attend_selected(cudaStream_t stream, const CudaAttendSelected& args) {
  const KvFormat& format = args.shape.format;
  SPILLWAY_CHECK(args.shape.heads % format.kv_heads == 0);
  if (args.states_count == 0) return cudaSuccess;
  if (format.dtype != DType::f16) return cudaErrorNotSupported;
  if (format.head_dim % 8 != 0 || format.head_dim > kCudaMostHeadDim) return cudaErrorNotSupported;
  const SelectedLaunch a = {.kv = args.kv,
                            .q = args.q.data,
                            .states = args.states,
                            .states_stride = args.states_stride,
                            .packed = format.packed_page(),
                            .sizes = {.head_dim = format.head_dim,
                                      .group = args.shape.heads / format.kv_heads,
                                      .state_floats = attn_state_floats(format.head_dim),
                                      .region = 0,
                                      .scale = args.shape.scale}};
  if (format.packs()) return launch_format<true>(stream, a, args.states_count, format.kv_heads);
  return launch_format<false>(stream, a, args.states_count, format.kv_heads);
}

}  // namespace spillway::cuda

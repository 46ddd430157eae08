// Packed KV pages (kernels/kv_page.h) back to half precision, a page's keys or values at a time; written once over
// Lanes. What comes out are the bits that kernels/kv_codec.h defines: the product of code and scale is exact, so it is
// all the same whether the sum is fused to it.

namespace spillway {
namespace {

inline float half_at(const std::byte* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof half);
  return half_to_float(half);
}

// `count` codes, a multiple of 8, to halves; scale_of and minimum_of give those of 16 channels from the n-th on. Codes
// are read by 16: of a row's last eight what lies behind is read, which is of the page, and not used.
template <int kBits, typename ScaleOf, typename MinimumOf>
inline void unpack_codes(const std::byte* codes, int count, const ScaleOf& scale_of, const MinimumOf& minimum_of,
                         std::byte* out) {
  for (int c = 0; c < count; c += kLanes) {
    const Lanes values = fma(load_codes<kBits>(codes + c * kBits / 8), scale_of(c), minimum_of(c));
    if (count - c >= kLanes) {
      store_f16(out + 2 * c, values);
    } else {
      store_f16_part(out + 2 * c, values, count - c);
    }
  }
}

template <int kBits>
void unpack_per_channel(const PackedPage& p, const std::byte* header, const std::byte* packed, int tokens,
                        std::byte* out) {
  alignas(64) float scales[kMostHeadDim + kLanes], minima[kMostHeadDim + kLanes];
  for (int c = 0; c < p.head_dim; c += kLanes) {
    std::byte edge[4 * kLanes] = {};
    const bool whole = c + kLanes <= p.head_dim;
    if (!whole) __builtin_memcpy(edge, header + 4 * c, 4 * static_cast<size_t>(p.head_dim - c));
    const WordLanes groups = load_words(whole ? header + 4 * c : edge);  // GroupScale: a scale, then a minimum
    store_f32(scales + c, element_of<16>(groups, 0));
    store_f32(minima + c, element_of<16>(groups, 1));
  }
  for (int t = 0; t < tokens; t++) {
    unpack_codes<kBits>(
        packed + p.codes(t, false), p.head_dim, [&](int c) { return load_f32(scales + c); },
        [&](int c) { return load_f32(minima + c); }, out + int64_t{2} * t * p.head_dim);
  }
}

template <int kBits>
void unpack_per_token(const PackedPage& p, const std::byte* packed, bool value, int tokens, std::byte* out) {
  for (int t = 0; t < tokens; t++) {
    const std::byte* codes = packed + p.codes(t, value);
    const std::byte* scales = packed + p.scales(t, value);
    for (int first = 0; first < p.head_dim; first += p.group, scales += 4) {
      const Lanes scale = lanes_set(half_at(scales)), minimum = lanes_set(half_at(scales + 2));
      unpack_codes<kBits>(
          codes + first * kBits / 8, p.group, [&](int) { return scale; }, [&](int) { return minimum; },
          out + int64_t{2} * (t * p.head_dim + first));
    }
  }
}

// out [tokens x head_dim] f16: the keys or values of the page's first tokens. header: where the page's own lies, of
// which only one granule may be at hand.
inline void unpack(const PackedPage& p, const std::byte* header, const std::byte* packed, bool value, int tokens,
                   std::byte* out) {
  const bool per_channel = !value && p.header_bytes > 0;
  switch (p.bits) {
    case 2:
      return per_channel ? unpack_per_channel<2>(p, header, packed, tokens, out)
                         : unpack_per_token<2>(p, packed, value, tokens, out);
    case 4:
      return per_channel ? unpack_per_channel<4>(p, header, packed, tokens, out)
                         : unpack_per_token<4>(p, packed, value, tokens, out);
    default:
      return per_channel ? unpack_per_channel<8>(p, header, packed, tokens, out)
                         : unpack_per_token<8>(p, packed, value, tokens, out);
  }
}

void unpack_keys(const PackedPage& p, const std::byte* header, const std::byte* packed, int tokens, std::byte* out) {
  unpack(p, header, packed, false, tokens, out);
}

}  // namespace
}  // namespace spillway

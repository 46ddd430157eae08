// Lanes: 16 floats, as plain arrays. Multiply and add are not fused.
#include "kernels/blocks.h"

namespace spillway {
namespace {

constexpr const char* kKernelsName = "scalar";
constexpr int kFloatTileM = 2;
constexpr int kFloatTileN = 4;
constexpr int kBroadcastRows = 2;
constexpr int kBroadcastCols = 2;
constexpr int kScoreHeads = 4;

struct Lanes {
  float v[kLanes];
};

template <typename F>
inline Lanes each(F f) {
  Lanes r;
  for (int i = 0; i < kLanes; i++) r.v[i] = f(i);
  return r;
}

inline float half_to_float(uint16_t h) { return f16_to_f32(h); }
inline uint16_t load_u16(const void* p) {
  uint16_t x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

inline Lanes lanes_zero() {
  return each([](int) { return 0.0f; });
}
inline Lanes lanes_set(float x) {
  return each([=](int) { return x; });
}
inline Lanes load_f32(const void* p) {
  Lanes r;
  __builtin_memcpy(r.v, p, sizeof r.v);
  return r;
}
inline Lanes load_f16(const void* p) {
  return each([=](int i) { return f16_to_f32(load_u16(static_cast<const std::byte*>(p) + 2 * i)); });
}
inline Lanes load_bf16(const void* p) {
  return each([=](int i) { return bf16_to_f32(load_u16(static_cast<const std::byte*>(p) + 2 * i)); });
}
// 16 codes of 2, 4 or 8 bits, packed little-endian.
template <int kBits>
inline Lanes load_codes(const std::byte* p) {
  return each([=](int i) {
    const int bit = i * kBits;
    return static_cast<float>(static_cast<int>(p[bit / 8]) >> bit % 8 & ((1 << kBits) - 1));
  });
}
// A word of 32 bits to each lane, and the codes or halves in them: the i-th of each word.
struct WordLanes {
  uint32_t v[kLanes];
};
inline WordLanes load_words(const std::byte* p) {
  WordLanes words;
  __builtin_memcpy(words.v, p, sizeof words.v);
  return words;
}
template <int kBits>
inline Lanes element_of(const WordLanes& words, int i) {
  return each([&](int lane) {
    const uint32_t number = words.v[lane] >> i * kBits & ((1u << kBits) - 1);
    return kBits == 16 ? f16_to_f32(static_cast<uint16_t>(number)) : static_cast<float>(number);
  });
}
// The first n lanes; the others are zero, and their memory is not touched.
inline Lanes load_f32_part(const void* p, int n) {
  Lanes r = lanes_zero();
  __builtin_memcpy(r.v, p, 4 * static_cast<size_t>(n));
  return r;
}
inline Lanes load_f16_part(const void* p, int n) {
  return each([=](int i) { return i < n ? f16_to_f32(load_u16(static_cast<const std::byte*>(p) + 2 * i)) : 0.0f; });
}
inline Lanes load_bf16_part(const void* p, int n) {
  return each([=](int i) { return i < n ? bf16_to_f32(load_u16(static_cast<const std::byte*>(p) + 2 * i)) : 0.0f; });
}
inline void store_f32(float* p, const Lanes& a) { __builtin_memcpy(p, a.v, sizeof a.v); }
inline void store_f32_part(float* p, const Lanes& a, int n) { __builtin_memcpy(p, a.v, 4 * static_cast<size_t>(n)); }
inline void store_f16(void* p, const Lanes& a) {
  uint16_t h[kLanes];
  for (int i = 0; i < kLanes; i++) h[i] = f32_to_f16(a.v[i]);
  __builtin_memcpy(p, h, sizeof h);
}
inline void store_f16_part(void* p, const Lanes& a, int n) {
  uint16_t h[kLanes];
  for (int i = 0; i < kLanes; i++) h[i] = f32_to_f16(a.v[i]);
  __builtin_memcpy(p, h, 2 * static_cast<size_t>(n));
}

inline Lanes add(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes sub(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes mul(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes div(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
// a * b + c
inline Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// c - a * b
inline Lanes fnma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return each([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
inline float fma1(float a, float b, float c) { return a * b + c; }
// The second operand where either is NaN, as x86 has it.
inline Lanes max(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Lanes min(const Lanes& a, const Lanes& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
// Nearest even, |a| < 2^22.
inline Lanes round_even(const Lanes& a) {
  const float magic = 0x1.8p23f;
  return each([&](int i) { return (a.v[i] + magic) - magic; });
}
// Lanes from n on become `other`.
inline Lanes keep_first(const Lanes& a, int n, float other) {
  return each([&](int i) { return i < n ? a.v[i] : other; });
}
struct LaneMask {
  bool v[kLanes];
};
inline LaneMask not_below(const Lanes& a, float limit) {
  LaneMask r;
  for (int i = 0; i < kLanes; i++) r.v[i] = !(a.v[i] < limit);
  return r;
}
// Zero where the mask is not set.
inline Lanes where(const LaneMask& mask, const Lanes& a) {
  return each([&](int i) { return mask.v[i] ? a.v[i] : 0.0f; });
}
// a * 2^n for whole n in [-126, 127] where the mask is set, else zero.
inline Lanes times_power_of_2(const Lanes& a, const Lanes& n, const LaneMask& mask) {
  return each([&](int i) {
    const bool finite = n.v[i] >= -126.0f && n.v[i] <= 127.0f;
    const float power = float_from_bits(finite ? static_cast<uint32_t>(static_cast<int>(n.v[i]) + 127) << 23 : 0);
    return mask.v[i] ? a.v[i] * power : 0.0f;
  });
}
inline float first(const Lanes& a) { return a.v[0]; }
inline float sum_of(const Lanes& a) {
  float s[8];
  for (int i = 0; i < 8; i++) s[i] = a.v[i] + a.v[i + 8];
  for (int i = 0; i < 4; i++) s[i] = s[i] + s[i + 4];
  return (s[0] + s[2]) + (s[1] + s[3]);
}
inline Lanes sums_of(const Lanes (&a)[kLanes]) {
  return each([&](int i) { return sum_of(a[i]); });
}
inline float max_of(const Lanes& a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; i++) m = m > a.v[i] ? m : a.v[i];
  return m;
}
// 16 rows of 16 f16, `stride` bytes apart -> out[c] = element c of every row.
inline void transpose_f16(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  for (int c = 0; c < kLanes; c++) {
    out[c] = each([&](int i) { return f16_to_f32(load_u16(rows + i * stride + 2 * c)); });
  }
}
// The same of f32.
inline void transpose_f32(const std::byte* rows, int64_t stride, Lanes (&out)[kLanes]) {
  for (int i = 0; i < kLanes; i++) {
    const Lanes row = load_f32(rows + i * stride);
    for (int c = 0; c < kLanes; c++) out[c].v[i] = row.v[c];
  }
}

}  // namespace
}  // namespace spillway

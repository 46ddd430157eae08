#include "kernels/reference/packed_page.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "kernels/kv_codec.h"

namespace spillway::reference {
namespace {

uint16_t half_at(const KvFormat& format, const std::byte* page, int token, bool value, int channel) {
  uint16_t half;
  std::memcpy(&half, page + ((value ? kPageTokens : 0) + token) * format.token_bytes() + 2 * channel, sizeof half);
  return half;
}

void put_code(const PackedPage& p, int token, bool value, int channel, uint32_t code, std::byte* packed) {
  std::byte* row = packed + p.codes(token, value);
  const int bit = channel * p.bits;
  row[bit / 8] |= static_cast<std::byte>(code << bit % 8);
}

uint32_t code_at(const PackedPage& p, const std::byte* packed, int token, bool value, int channel) {
  const std::byte* row = packed + p.codes(token, value);
  const int bit = channel * p.bits;
  return std::to_integer<uint32_t>(row[bit / 8]) >> bit % 8 & ((1u << p.bits) - 1);
}

// Where the scale lies that a key or value shares.
int scale_of(const PackedPage& p, int token, bool value, int channel) {
  if (!value && p.header_bytes > 0) return channel * 4;
  return p.scales(token, value) + channel / p.group * 4;
}

struct TokenChannel {
  int token;
  int channel;
};

// One group: `count` elements, the i-th of them at place(i).
void pack_group(const KvFormat& format, const std::byte* page, bool value, int count,
                const std::function<TokenChannel(int)>& place, std::byte* packed) {
  const PackedPage p = format.packed_page();
  float smallest = std::numeric_limits<float>::infinity(), largest = -smallest;
  bool finite = true;
  for (int i = 0; i < count; i++) {
    const uint16_t half = half_at(format, page, place(i).token, value, place(i).channel);
    finite = finite && is_finite_f16(half);
    smallest = std::min(smallest, f16_to_f32(half));
    largest = std::max(largest, f16_to_f32(half));
  }
  const GroupScale group = group_scale(smallest, largest, finite, p.bits);
  std::memcpy(packed + scale_of(p, place(0).token, value, place(0).channel), &group, sizeof group);
  const float minimum = f16_to_f32(group.minimum), inverse = inverse_of(group);
  for (int i = 0; i < count; i++) {
    const auto [token, channel] = place(i);
    const float x = f16_to_f32(half_at(format, page, token, value, channel));
    put_code(p, token, value, channel, code_of(x, minimum, inverse, p.bits), packed);
  }
}

uint16_t half_of(const PackedPage& p, const std::byte* packed, int token, bool value, int channel) {
  GroupScale group;
  std::memcpy(&group, packed + scale_of(p, token, value, channel), sizeof group);
  const auto code = static_cast<float>(code_at(p, packed, token, value, channel));
  return unpacked(code, f16_to_f32(group.scale), f16_to_f32(group.minimum));
}

}  // namespace

void pack_page(const KvFormat& format, const std::byte* page, std::byte* packed) {
  const PackedPage p = format.packed_page();
  std::memset(packed, 0, static_cast<size_t>(p.bytes()));
  for (const bool value : {false, true}) {
    if (!value && p.header_bytes > 0) {
      for (int c = 0; c < p.head_dim; c++) {
        pack_group(
            format, page, value, kPageTokens,
            [&](int i) {
              return TokenChannel{i, c};
            },
            packed);
      }
      continue;
    }
    for (int token = 0; token < kPageTokens; token++) {
      for (int first = 0; first < p.head_dim; first += p.group) {
        pack_group(
            format, page, value, p.group,
            [&](int i) {
              return TokenChannel{token, first + i};
            },
            packed);
      }
    }
  }
}

void load_packed(const KvFormat& format, const std::byte* packed, int token, bool value, double* values) {
  const PackedPage p = format.packed_page();
  for (int c = 0; c < p.head_dim; c++) values[c] = f16_to_f32(half_of(p, packed, token, value, c));
}

void unpack_page(const KvFormat& format, const std::byte* packed, std::byte* page) {
  const PackedPage p = format.packed_page();
  for (int i = 0; i < 2 * kPageTokens * p.head_dim; i++) {
    const int token = i / p.head_dim;
    const uint16_t half = half_of(p, packed, token % kPageTokens, token >= kPageTokens, i % p.head_dim);
    std::memcpy(page + 2 * i, &half, sizeof half);
  }
}

}  // namespace spillway::reference

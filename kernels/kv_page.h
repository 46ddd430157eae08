// How the bytes of a KV page lie: 64 tokens of one (layer, KV head) in half or single precision, or, of half precision,
// packed by a codec once the page is full (KIVI, arXiv 2402.02750; FlexGen, arXiv 2303.06865, section 4.4). Sizes and
// offsets only, included by host and device; the arithmetic is kernels/kv_codec.h.
#pragma once

#include <cstdint>

namespace spillway {

inline constexpr int kPageTokens = 64;
// Tokens of a packed page that lie side by side, keys, values and scales: the least that can be fetched by itself.
inline constexpr int kGranuleTokens = 4;
inline constexpr int kGranules = kPageTokens / kGranuleTokens;

enum class KvCodec : uint8_t { f16, f32, q8, q4, kivi4, kivi2 };

struct KvCodecInfo {
  const char* name;
  int bits;               // of a code, or of an element of pages that stay as they are
  bool keys_per_channel;  // else keys are grouped as values are, within a token
};

inline constexpr KvCodecInfo kKvCodecs[] = {{"fp16", 16, false}, {"fp32", 32, false}, {"q8", 8, false},
                                            {"q4", 4, false},    {"kivi4", 4, true},  {"kivi2", 2, true}};

constexpr const KvCodecInfo& info(KvCodec codec) { return kKvCodecs[static_cast<int>(codec)]; }

inline constexpr KvCodec kAllKvCodecs[] = {KvCodec::f16, KvCodec::f32,   KvCodec::q8,
                                           KvCodec::q4,  KvCodec::kivi4, KvCodec::kivi2};

constexpr bool packs(KvCodec codec) { return info(codec).bits < 16; }

// Half precision, little-endian: code c of a group stands for minimum + c * scale.
struct GroupScale {
  uint16_t scale;
  uint16_t minimum;
};

// The channels that share a scale: the largest multiple of 8 up to 64 that divides head_dim, itself a multiple of 8.
constexpr int channel_group(int head_dim) {
  int group = 8;
  for (int size = 16; size <= 64; size += 8) {
    if (head_dim % size == 0) group = size;
  }
  return group;
}

// A packed page, all offsets in bytes from its start:
//   GroupScale [head_dim] of the keys' channels, over all 64 tokens, where keys are packed per channel;
//   then 16 granules of 4 tokens, each: key codes [4][code_bytes], value codes [4][code_bytes], GroupScale
//   [4][head_dim / group] of the keys where they are packed per token, the same of the values.
// Code i of a row takes bits [i * bits, (i + 1) * bits) of its bytes, read as one little-endian number. Every part
// begins at a multiple of 8 bytes and every granule at one of 16.
struct PackedPage {
  int bits = 0;
  int head_dim = 0;
  int group = 0;         // channels of one token that share a scale
  int code_bytes = 0;    // of one token's keys, or values
  int header_bytes = 0;  // 0: keys are packed per token
  int granule_bytes = 0;

  bool operator==(const PackedPage&) const = default;

  static constexpr PackedPage of(KvCodec codec, int head_dim) {
    PackedPage p;
    p.bits = info(codec).bits;
    p.head_dim = head_dim;
    p.group = channel_group(head_dim);
    p.code_bytes = head_dim * p.bits / 8;
    p.header_bytes = info(codec).keys_per_channel ? head_dim * 4 : 0;
    const int scales = head_dim / p.group * 4 * (info(codec).keys_per_channel ? 1 : 2);  // of a token
    p.granule_bytes = kGranuleTokens * (2 * p.code_bytes + scales);
    return p;
  }

  constexpr int bytes() const { return header_bytes + kGranules * granule_bytes; }
  // The key codes of a token, or its value codes.
  constexpr int codes(int token, bool value) const {
    return header_bytes + token / kGranuleTokens * granule_bytes +
           (token % kGranuleTokens + (value ? kGranuleTokens : 0)) * code_bytes;
  }
  // The scales of a token's values, or of its keys where these are packed per token.
  constexpr int scales(int token, bool value) const {
    const int of_token = head_dim / group * 4;
    const bool after_keys = value && header_bytes == 0;
    return header_bytes + token / kGranuleTokens * granule_bytes + 2 * kGranuleTokens * code_bytes +
           (token % kGranuleTokens + (after_keys ? kGranuleTokens : 0)) * of_token;
  }
};

// Packed pages are made of pieces of 8 channels.
constexpr bool can_pack(int head_dim) { return head_dim > 0 && head_dim % 8 == 0; }

}  // namespace spillway

// Which entries of the KV cache a decode step reads, and how they are found: partial keys, scores, choices, and the
// places of what was chosen (the rehearsal of InfiniGen, arXiv 2406.19707, sections 4.2 and 4.3). Types of Ops.
//
// A granule is a few consecutive positions of one (layer, KV head): what is chosen, fetched and attended as one.
// Granule g holds tokens [g * tokens, (g + 1) * tokens); its size divides kPageTokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_page.h"
#include "kernels/kv_span.h"
#include "kernels/view.h"

namespace spillway {

// A partial key is a key's product with a few directions that carry most of its score: `rank` numbers for a token and
// KV head, in half precision (16 bits) or packed with a scale of their own (8 or 4, kernels/kv_codec.h).
// Those of one page lie together by words of 32 bits, the same word of all tokens side by side, since they are read for
// all tokens at once: [code_bytes / 4][kPageTokens], then GroupScale [kPageTokens] where packed. Number j of a token
// takes bits [j * bits, (j + 1) * bits) of its words. Those of a page row lie head by head.
struct PartialKeyFormat {
  int kv_heads = 0;
  int rank = 0;  // a multiple of 8, up to head_dim
  int bits = 16;

  bool operator==(const PartialKeyFormat&) const = default;
  constexpr int code_bytes() const { return rank * bits / 8; }
  // From the start of a page.
  constexpr int word_at(int word, int token) const { return (word * kPageTokens + token) * 4; }
  constexpr int scale_at(int token) const { return word_at(code_bytes() / 4, token); }
  constexpr int token_bytes() const { return code_bytes() + (bits < 16 ? 4 : 0); }
  constexpr uint64_t page_bytes() const { return static_cast<uint64_t>(kPageTokens) * token_bytes(); }
  constexpr uint64_t row_bytes() const { return kv_heads * page_bytes(); }
};

// Columns of the scratch of Ops::score_keys: of each query head its partial query and its scores, by whole pages, and
// of each page the largest and the sum.
constexpr int64_t score_columns(const PartialKeyFormat& format, int tokens) {
  const int64_t pages = (int64_t{tokens} + kPageTokens - 1) / kPageTokens;
  return format.rank + pages * (kPageTokens + 2);
}

// The directions of one layer, in device memory, all f32. A partial key is (key - mean) . keys, a partial query is
// query . queries, and their product times the scale of attention stands for the score: exactly so where rank is
// head_dim and keys . queries^T is the identity. Without the mean all scores of a query shift alike.
struct PartialKeyBasis {
  View keys;     // [kv_heads * rank x head_dim]: direction j of head h is row h * rank + j
  View queries;  // [kv_heads * rank x head_dim]: of all query heads of the group
  View mean;     // [kv_heads x head_dim]

  bool operator==(const PartialKeyBasis&) const = default;
};

// The bounds of keys (Quest, arXiv 2406.10774, section 3.2): the smallest and the largest number of each channel over a
// granule's tokens, in half precision, which is exact. Those of a page: [kPageTokens / granule_tokens][2][head_dim];
// those of a page row lie head by head. Of a granule that is not full they are those of its tokens so far.
struct KeyBoundsFormat {
  int kv_heads = 0;
  int head_dim = 0;
  int granule_tokens = 0;

  constexpr int granules() const { return kPageTokens / granule_tokens; }  // of a page
  constexpr int granule_bytes() const { return 2 * head_dim * 2; }
  constexpr uint64_t page_bytes() const { return static_cast<uint64_t>(granules()) * granule_bytes(); }
  constexpr uint64_t row_bytes() const { return kv_heads * page_bytes(); }
};

// Tokens [first_token, first_token + count) of a page row that is not packed: their partial keys go to `partial`, or
// the bounds of their granules.
struct PartialKeyRun {
  const std::byte* page_row = nullptr;
  std::byte* partial = nullptr;  // of the page row
  int32_t first_token = 0;
  int32_t count = 0;
};

// A choice among the granules of `tokens` positions, for each KV head: the first and the last ones in any case, and of
// the others those with the largest weights, among equals the earlier first.
//
// How many that are may follow from the weights, of which only the first `scored` are read then. Of the others are
// chosen only those of at least `of_largest` times the largest weight of all (InfiniGen's alpha, arXiv 2406.19707,
// section 4.3, is exp(-alpha)), and only those before which the weights of the ones chosen in any case and of all that
// are larger do not reach `mass` (top-p, arXiv 1904.09751, section 3.1; not a share: of a group of n query heads all
// weights have the sum n). A weight that is no number counts for nothing.
struct GranuleChoice {
  int granules = 0;  // there are
  int count = 0;     // to be chosen at most: 0 < count <= granules
  int first = 0;     // chosen in any case: attention sinks (arXiv 2309.17453)
  int last = 0;      // and the newest; first + last <= count
  float of_largest = 0;
  float mass = 0;  // 0: whatever
  int scored = 0;

  constexpr bool adapts() const { return of_largest > 0 || mass > 0; }
};
inline constexpr int32_t kNoGranule = -1;  // in the places behind those chosen

// Where one granule of one KV head lies in device memory.
struct GranulePlace {
  const std::byte* keys = nullptr;    // [tokens x head_dim] half precision; or a granule of a PackedPage
  const std::byte* values = nullptr;  // [tokens x head_dim] half precision; or the head of that page: its key scales
  int32_t tokens = 0;                 // that are written: fewer than a granule in the last place only, 0 behind it
  int32_t packed = 0;
};

// What a decode step attends to, in ascending order, in device memory: places [kv_heads x granules]. A KV head may have
// fewer: behind its last place are some without tokens.
struct SelectedKv {
  const GranulePlace* places = nullptr;
  int granules = 0;
  int granule_tokens = 0;  // kGranuleTokens where any is packed

  // States are cut as spans are: kSpanTokens positions of those selected go into one.
  constexpr int granules_per_state() const { return kSpanTokens / granule_tokens; }
  constexpr int states() const { return (granules + granules_per_state() - 1) / granules_per_state(); }
};

}  // namespace spillway

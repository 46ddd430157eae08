// KvSpan and AttnState: attention as a fold over spans (ARCHITECTURE.md, idea 1). A span is kSpanTokens consecutive
// positions, whatever tier they came from; a kernel turns one span into one partial softmax state, and states are
// merged in position order. So where a page lies never changes the answer.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv_page.h"
#include "kernels/view.h"

namespace spillway {

inline constexpr int kPagesPerSpan = 8;
inline constexpr int kSpanTokens = kPageTokens * kPagesPerSpan;

// How the bytes of a page row lie: the pages of all KV heads of one layer for the same 64 tokens, side by side.
// Page of head h: K [kPageTokens x head_dim], then V [kPageTokens x head_dim], token-major, in half precision or in
// single (F32). A page row of half precision that is full may be packed (Ops::seal): then the page of head h is a
// PackedPage (kernels/kv_page.h).
struct KvFormat {
  DType dtype = DType::f16;
  int kv_heads = 0;
  int head_dim = 0;
  KvCodec codec = KvCodec::f16;  // of packed rows; fp16: there are none. Such pages are packed from F16.

  bool operator==(const KvFormat&) const = default;
  uint64_t token_bytes() const { return row_bytes(dtype, head_dim); }  // K (or V) of one token of one head
  uint64_t page_bytes() const { return 2 * kPageTokens * token_bytes(); }
  uint64_t row_of_pages_bytes() const { return kv_heads * page_bytes(); }

  bool packs() const { return spillway::packs(codec); }
  // What --kv-type calls it.
  KvCodec type() const { return dtype == DType::f32 ? KvCodec::f32 : codec; }
  PackedPage packed_page() const { return packs() ? PackedPage::of(codec, head_dim) : PackedPage{}; }
  uint64_t packed_row_bytes() const { return static_cast<uint64_t>(kv_heads) * packed_page().bytes(); }
};

// Up to kSpanTokens positions of one layer: tokens [first_position, first_position + tokens).
// Page row i holds tokens [i * kPageTokens, ...); rows past the last token are null. Packed rows are full.
struct KvSpan {
  const std::byte* rows[kPagesPerSpan] = {};
  int32_t first_position = 0;
  int32_t tokens = 0;
  uint32_t packed = 0;  // bit i: row i is packed, by the format's codec

  constexpr bool is_packed(int row) const { return (packed >> row & 1) != 0; }
};

// Partial softmax state of one (query row, head): head_dim floats of sum(exp(s - max) * v), then max, then sum(exp(s -
// max)). An empty state has max = -infinity and sum = 0.
constexpr int attn_state_floats(int head_dim) { return head_dim + 2; }

// One query row against one span; the state of head h goes to states row `slot`, floats [h * attn_state_floats, ...).
struct SpanTask {
  KvSpan span;
  int32_t row = 0;
  int32_t slot = 0;
  int32_t first_token = 0;  // those before it have left the query's window
};

// States rows [first_slot, first_slot + count) are merged, ascending, into output row `row`.
struct MergeTask {
  int32_t row = 0;
  int32_t first_slot = 0;
  int32_t count = 0;
};

// Rows [first_row, first_row + count) of new keys and values go to tokens [first_token, ...) of one page row.
struct AppendRun {
  std::byte* page_row = nullptr;
  int32_t first_token = 0;
  int32_t first_row = 0;
  int32_t count = 0;
};

// A full page row is packed: `from` in half precision, `to` packed by the format's codec; they do not overlap, and both
// are aligned to 16 bytes.
struct SealRun {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
};

}  // namespace spillway

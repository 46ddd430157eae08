// KvLayout and KvPools: how the KV cache is cut, and what each tier holds of it.
#pragma once

#include <cstdint>

#include "kernels/kv_span.h"
#include "kernels/shape.h"
#include "memory/extent.h"

namespace spillway {

struct KvLayout {
  KvFormat format;
  int layers = 0;

  explicit KvLayout(const ModelShape& shape)
      : format{.dtype = DType::f16, .kv_heads = shape.kv_heads, .head_dim = shape.head_dim}, layers(shape.layers) {}
  // Bytes of one page row, padded so that any row is one aligned disk transfer.
  uint64_t row_bytes() const { return align_up(format.row_of_pages_bytes(), kDiskAlign); }
};

// Rows of pages for `tokens` positions of one layer.
constexpr int page_rows(int64_t tokens) { return static_cast<int>((tokens + kPageTokens - 1) / kPageTokens); }

// Each tier's slots for page rows. A layer keeps at most `device_rows_per_layer` rows on the device between passes; the
// slots beyond layers * device_rows_per_layer take what a pass writes before it is spilled.
struct KvPools {
  uint32_t device_slots = 0;
  uint32_t host_slots = 0;
  uint32_t disk_slots = 0;
  int device_rows_per_layer = 0;
  std::byte* device = nullptr;
  std::byte* host = nullptr;
  uint32_t file = 0;         // the disk queue's number of the spill file
  uint64_t file_offset = 0;  // of the disk's slots in it
};

}  // namespace spillway

// Packed KV pages, one element after the other: the specification of what kernels/kv_page.h lays out.
#pragma once

#include <cstddef>

#include "kernels/kv_span.h"

namespace spillway::reference {

// One head's full page of F16, packed.
void pack_page(const KvFormat& format, const std::byte* page, std::byte* packed);
// values [head_dim] = the key of one token of a packed page, or its value.
void load_packed(const KvFormat& format, const std::byte* packed, int token, bool value, double* values);
// The page of F16 that a packed one stands for.
void unpack_page(const KvFormat& format, const std::byte* packed, std::byte* page);

}  // namespace spillway::reference

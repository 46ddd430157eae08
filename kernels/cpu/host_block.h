// Blocks of host memory straight from the kernel: what an arena of the host is made of.
#pragma once

#include <cstddef>
#include <cstdint>

namespace spillway {

// `bytes` > 0 of memory that nobody has touched, on a huge page's boundary where it holds one. Throws Error(fit) with
// what is free.
std::byte* map_host_block(uint64_t bytes);
void unmap_host_block(std::byte* block, uint64_t bytes);

}  // namespace spillway

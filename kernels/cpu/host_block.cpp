#include "kernels/cpu/host_block.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/free_memory.h"

namespace spillway {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kHugePageBytes = 2 << 20;

uint64_t round_up(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

std::byte* map_host_block(uint64_t bytes) {
  SPILLWAY_CHECK(bytes > 0);
  // A block that holds a huge page starts on one, or its first pages would stay small.
  const uint64_t slack = bytes >= kHugePageBytes ? kHugePageBytes - kPageBytes : 0;
  const bool countable = bytes <= UINT64_MAX - kHugePageBytes - kPageBytes;
  const uint64_t size = countable ? round_up(bytes, kPageBytes) : 0;
  void* mapped = MAP_FAILED;
  errno = ENOMEM;
  if (countable) {
    mapped = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (mapped == MAP_FAILED) {
    const int code = errno;
    throw Error(ErrorKind::fit, fmt::format("host memory: a block of {} bytes was refused ({}); {} bytes are free",
                                            bytes, std::strerror(code), free_memory_bytes()));
  }
  const uint64_t address = reinterpret_cast<uint64_t>(mapped);
  const uint64_t before = slack > 0 ? round_up(address, kHugePageBytes) - address : 0;
  auto* block = static_cast<std::byte*>(mapped) + before;
  if (before > 0) munmap(mapped, before);
  if (slack > before) munmap(block + size, slack - before);
  madvise(block, size, MADV_HUGEPAGE);  // speed alone: a kernel without huge pages refuses it
  return block;
}

void unmap_host_block(std::byte* block, uint64_t bytes) {
  if (block != nullptr) SPILLWAY_CHECK(munmap(block, round_up(bytes, kPageBytes)) == 0);
}

}  // namespace spillway

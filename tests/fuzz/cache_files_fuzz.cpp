// libFuzzer's entry for files that Spillway keeps for itself.
#include <cstdint>

#include "tests/fuzz/cache_files_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_cache_file({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

// libFuzzer's entry for the reader of skews.
#include <cstdint>

#include "tests/fuzz/skew_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_skew({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

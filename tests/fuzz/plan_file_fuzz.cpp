// libFuzzer's entry for the reader of plans.
#include <cstdint>

#include "tests/fuzz/plan_file_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_plan({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

// libFuzzer's entry for the input of batches.
#include <cstdint>
#include <span>

#include "tests/fuzz/batch_line_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_batch_lines(std::as_bytes(std::span(data, bytes)));
  return 0;
}

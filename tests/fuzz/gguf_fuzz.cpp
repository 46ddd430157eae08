// libFuzzer's entry for the GGUF reader.
#include <cstdint>

#include "tests/fuzz/gguf_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_gguf({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

// libFuzzer's entry for the reader of Hugging Face model directories.
#include <cstdint>

#include "tests/fuzz/hf_directory_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_hf_directory({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

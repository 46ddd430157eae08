// libFuzzer's entry for tokenizer.json.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/tokenizer_json_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_tokenizer_json({reinterpret_cast<const std::byte*>(data), bytes});
  return 0;
}

// libFuzzer's entry for chat templates.
#include <cstdint>

#include "tests/fuzz/chat_template_case.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  spillway::try_chat_template({reinterpret_cast<const char*>(data), bytes});
  return 0;
}

// The fuzzer's corpus as an ordinary test, with every compiler: seeds, and inputs that once broke the reader.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>

#include "tests/fuzz/gguf_case.h"

namespace spillway {
namespace {

TEST(GgufCorpus, EndsInAModelOrInErrorModel) {
  int cases = 0, opened = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SPILLWAY_TESTS_FOLDER "/fuzz/corpus/gguf")) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    SCOPED_TRACE(entry.path().filename().string());
    opened += try_gguf(std::as_bytes(std::span(bytes)));
    ++cases;
  }
  EXPECT_GE(cases, 8);
  EXPECT_GE(opened, 4);  // the whole models among them
}

}  // namespace
}  // namespace spillway

// The corpora of the fuzzers of texts as ordinary tests, with every compiler: seeds, and inputs that once broke
// something.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>

#include "tests/fuzz/chat_template_case.h"
#include "tests/fuzz/gguf_case.h"
#include "tests/fuzz/tokenizer_json_case.h"

namespace spillway {
namespace {

// How many of a corpus' cases are read to the end.
int understood(const char* name, int least, const std::function<bool(const std::string&)>& run) {
  int cases = 0, read = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(SPILLWAY_TEST_DATA "/../../fuzz/corpus/" + std::string(name))) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    SCOPED_TRACE(entry.path().filename().string());
    read += run(bytes);
    ++cases;
  }
  EXPECT_GE(cases, least) << name;
  return read;
}

TEST(TextCorpus, TokenizerJsonEndsInATokenizerOrInErrorModel) {
  const auto run = [](const std::string& bytes) { return try_tokenizer_json(std::as_bytes(std::span(bytes))); };
  EXPECT_GE(understood("tokenizer_json", 9, run), 6);
}

TEST(TextCorpus, ChatTemplatesEndInATextOrInAnError) {
  EXPECT_GE(understood("chat_template", 7, [](const std::string& bytes) { return try_chat_template(bytes); }), 3);
}

TEST(TextCorpus, SpmModelsEndInAModelOrInErrorModel) {
  const auto run = [](const std::string& bytes) { return try_gguf(std::as_bytes(std::span(bytes))); };
  EXPECT_GE(understood("spm", 5, run), 3);
}

}  // namespace
}  // namespace spillway

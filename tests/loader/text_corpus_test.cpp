// The corpora of the fuzzers of texts.
#include "tests/fuzz/chat_template_case.h"
#include "tests/fuzz/corpus.h"
#include "tests/fuzz/gguf_case.h"
#include "tests/fuzz/tokenizer_json_case.h"

namespace spillway {
namespace {

TEST(TextCorpus, TokenizerJsonEndsInATokenizerOrInErrorModel) {
  EXPECT_GE(run_corpus("tokenizer_json", 15, try_tokenizer_json), 8);
}

TEST(TextCorpus, ChatTemplatesEndInATextOrInAnError) {
  const auto run = [](std::span<const std::byte> bytes) {
    return try_chat_template({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  };
  EXPECT_GE(run_corpus("chat_template", 7, run), 3);
}

TEST(TextCorpus, SpmModelsEndInAModelOrInErrorModel) { EXPECT_GE(run_corpus("spm", 5, try_gguf), 3); }

}  // namespace
}  // namespace spillway

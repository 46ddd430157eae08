// The corpora of the fuzzers of models: whole ones among them are read, all others end in Error(model).
#include "tests/fuzz/corpus.h"
#include "tests/fuzz/gguf_case.h"
#include "tests/fuzz/hf_directory_case.h"

namespace spillway {
namespace {

TEST(GgufCorpus, EndsInAModelOrInErrorModel) { EXPECT_GE(run_corpus("gguf", 22, try_gguf), 13); }

TEST(HfDirectoryCorpus, EndsInAModelOrInErrorModel) {
  EXPECT_GE(run_corpus("hf_directory", 32, try_hf_directory), 14);  // of every family, and one in two shards
}

}  // namespace
}  // namespace spillway

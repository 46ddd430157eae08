// The corpus of the fuzzer of files that Spillway keeps for itself.
#include "tests/fuzz/cache_files_case.h"
#include "tests/fuzz/corpus.h"

namespace spillway {
namespace {

TEST(CacheFilesCorpus, IsUnderstoodOrPassedOver) { EXPECT_GE(run_corpus("cache_files", 22, try_cache_file), 6); }

}  // namespace
}  // namespace spillway

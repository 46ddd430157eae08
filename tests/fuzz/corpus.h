// The corpus of a fuzz target as an ordinary test, with every compiler: seeds, and inputs that once broke something.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>

namespace spillway {

// Runs every case of tests/fuzz/corpus/NAME, of which there must be `least`, and returns the sum of what `run` says.
inline int run_corpus(const std::string& name, int least, const std::function<int(std::span<const std::byte>)>& run) {
  int cases = 0, sum = 0;
  const auto tests = std::filesystem::path(SPILLWAY_TEST_DATA).parent_path().parent_path();
  for (const auto& entry : std::filesystem::directory_iterator(tests / "fuzz/corpus" / name)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    SCOPED_TRACE(entry.path().filename().string());
    sum += run(std::as_bytes(std::span(bytes)));
    ++cases;
  }
  EXPECT_GE(cases, least) << name;
  return sum;
}

}  // namespace spillway

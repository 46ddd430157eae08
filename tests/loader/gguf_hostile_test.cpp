// Files that are cut short, damaged or lying end in Error(model) with path and byte, soon and within little memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "loader/checkpoint.h"
#include "tests/fuzz/gguf_case.h"
#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

bool try_file(const std::string& bytes) { return try_gguf(std::as_bytes(std::span(bytes))); }

class HostileTest : public testing::Test {
 protected:
  std::string refused(const std::string& bytes) {
    const std::string path = folder_.write("hostile.gguf", bytes);
    try {
      open_gguf(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), AllOf(HasSubstr(path), HasSubstr("at byte ")));
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }
  std::string refused(const GgufBytes& file) { return refused(file.file()); }

  TemporaryFolder folder_;
};

TEST_F(HostileTest, CutAtEveryByte) {
  const GgufBytes model = smallest_llama();
  const std::string whole = model.file();
  ASSERT_TRUE(try_file(whole));
  for (size_t bytes = 0; bytes < whole.size(); ++bytes) EXPECT_FALSE(try_file(whole.substr(0, bytes))) << bytes;
  EXPECT_THAT(refused(whole.substr(0, whole.size() - 1)),
              AllOf(HasSubstr("truncated"), HasSubstr(std::to_string(whole.size())),
                    HasSubstr(std::to_string(whole.size() - 1))));
}

TEST_F(HostileTest, EveryBitOfTheHeaderFlipped) {
  const GgufBytes model = smallest_llama();
  const std::string whole = model.file();
  const auto start = std::chrono::steady_clock::now();
  int opened = 0;
  for (size_t bit = 0; bit < model.header().size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
    opened += try_file(damaged);  // either way; that it ends, and how it throws, is the test
  }
  // Most bits are in names and numbers that the format lets be anything.
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, static_cast<int>(model.header().size() * 8));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_F(HostileTest, NotOurKindOfFile) {
  EXPECT_THAT(refused(std::string("GGUF")), HasSubstr("the version"));
  EXPECT_THAT(refused(std::string(1, 'G')), HasSubstr("ends after 1 bytes"));
  GgufBytes file;
  file.magic = 0x12345678;
  EXPECT_THAT(refused(file), HasSubstr("not a GGUF"));
  file = {};
  file.version = 1;
  EXPECT_THAT(refused(file), HasSubstr("version 1"));
  file.version = 4;
  EXPECT_THAT(refused(file), HasSubstr("version 4"));
  file.version = 0x03000000;
  EXPECT_THAT(refused(file), HasSubstr("big-endian"));
}

TEST_F(HostileTest, LyingCounts) {
  for (const uint64_t count : {uint64_t{1} << 17, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX}) {
    GgufBytes file;
    file.tensor_count = count;
    refused(file);
    file = {};
    file.key_count = count;
    refused(file);
    for (const uint32_t type : {0u, 4u, 8u, 12u}) {
      file = {};
      file.array("list", type, count, "");
      refused(file);
    }
    file = {};
    file.raw("text", 8, GgufBytes::number(count));
    refused(file);
  }
  GgufBytes file;
  file.u32("a", 1);
  file.key_count = 2;
  refused(file);
}

TEST_F(HostileTest, UnknownAndDoubled) {
  GgufBytes file;
  file.raw("x", 13, GgufBytes::number<uint64_t>(0));
  EXPECT_THAT(refused(file), HasSubstr("type 13"));
  file.array("x", 99, 1, GgufBytes::number<uint64_t>(0));
  EXPECT_THAT(refused(file), HasSubstr("type 99"));
  file.array("x", 9, 1, GgufBytes::number<uint32_t>(4) + GgufBytes::number<uint64_t>(0));
  EXPECT_THAT(refused(file), HasSubstr("arrays of arrays"));
  file.raw("x", 7, std::string("\2", 1));
  EXPECT_THAT(refused(file), HasSubstr("0 or 1"));
  file = {};
  file.u32("x\x1b[2J", 1);
  file.append("x\x1b[2J", 4, GgufBytes::number<uint32_t>(1));
  EXPECT_THAT(refused(file), AllOf(HasSubstr("x\\x1b[2J"), HasSubstr("twice")));
  file = {};
  file.u32("", 1);
  EXPECT_THAT(refused(file), HasSubstr("empty"));
  file = {};
  file.tensor("w");
  file.tensors.push_back(file.tensors.front());
  EXPECT_THAT(refused(file), AllOf(HasSubstr("tensor w"), HasSubstr("twice")));
  file.tensors = {{"", {1}, 0, 4, {}}};
  EXPECT_THAT(refused(file), HasSubstr("no name"));
}

TEST_F(HostileTest, Alignment) {
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 0x80000000u, 0xffffffffu}) {
    GgufBytes file;
    file.u32("general.alignment", alignment);
    EXPECT_THAT(refused(file), HasSubstr("general.alignment")) << alignment;
  }
  GgufBytes file;
  file.text("general.alignment", "32");
  EXPECT_THAT(refused(file), HasSubstr("general.alignment"));
  file = {};
  file.tensor("w").offset = 8;
  EXPECT_THAT(refused(file), AllOf(HasSubstr("offset 8"), HasSubstr("alignment 32")));
}

TEST_F(HostileTest, Dimensions) {
  const auto with = [&](std::vector<uint64_t> dims, uint32_t type = 0) {
    GgufBytes file;
    file.tensors = {{"w", std::move(dims), type, 64, {}}};
    return refused(file);
  };
  EXPECT_THAT(with({}), HasSubstr("0 dimensions"));
  EXPECT_THAT(with({1, 1, 1, 1, 1}), HasSubstr("5 dimensions"));
  EXPECT_THAT(with({0}), HasSubstr("empty"));
  EXPECT_THAT(with({4, 0}), HasSubstr("empty"));
  EXPECT_THAT(with({2, 2, 2, 2}), HasSubstr("2 x 2 x 2 x 2"));
  EXPECT_THAT(with({uint64_t{1} << 32, uint64_t{1} << 32}), HasSubstr("overflow"));
  EXPECT_THAT(with({uint64_t{1} << 62}), HasSubstr("overflow"));
  EXPECT_THAT(with({uint64_t{1} << 63}), HasSubstr("overflow"));
  EXPECT_THAT(with({UINT64_MAX, 1}), HasSubstr("overflow"));
  EXPECT_THAT(with({uint64_t{1} << 61}), HasSubstr("truncated"));
  EXPECT_THAT(with({33}, 2), AllOf(HasSubstr("33 elements"), HasSubstr("Q4_0")));
  EXPECT_THAT(with({32}, 12), AllOf(HasSubstr("32 elements"), HasSubstr("Q4_K's 256")));
  GgufBytes flat;  // ones are no dimensions
  flat.tensors = {{"w", {4, 2, 1, 1}, 0, 32, {}}};
  EXPECT_EQ(open_gguf(folder_.write("flat.gguf", flat.file())).require("w").rows, 2);
}

TEST_F(HostileTest, TypesByName) {
  const auto with = [&](uint32_t type) {
    GgufBytes file;
    file.tensors = {{"w", {256}, type, 1024, {}}};
    return refused(file);
  };
  EXPECT_THAT(with(16), AllOf(HasSubstr("IQ2_XXS (16)"), HasSubstr("F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0")));
  EXPECT_THAT(with(15), HasSubstr("Q8_K (15)"));
  EXPECT_THAT(with(39), HasSubstr("MXFP4 (39)"));
  EXPECT_THAT(with(26), HasSubstr("I32 (26)"));
  EXPECT_THAT(with(1000), HasSubstr("type 1000"));
}

TEST_F(HostileTest, Offsets) {
  GgufBytes file;
  file.tensor("a");
  file.tensor("b").offset = 0;
  EXPECT_THAT(refused(file), AllOf(HasSubstr("tensors a and b overlap"), HasSubstr("at byte")));
  file.tensors = {{"a", {16}, 0, 64, 0}, {"b", {8}, 0, 32, 32}};
  EXPECT_THAT(refused(file), HasSubstr("overlap"));
  file.tensors = {{"a", {8}, 0, 32, 32}, {"b", {8}, 0, 32, 0}};  // in another order, but apart
  EXPECT_EQ(open_gguf(folder_.write("order.gguf", file.file())).tensors.size(), 2u);
  file.tensors = {{"a", {8}, 0, 32, 1 << 20}};
  EXPECT_THAT(refused(file), HasSubstr("truncated"));
  for (const uint64_t offset : {uint64_t{1} << 63, UINT64_MAX - 31, UINT64_MAX - 4095}) {
    file.tensors = {{"a", {8}, 0, 32, offset}};
    EXPECT_THAT(refused(file), testing::AnyOf(HasSubstr("overflows"), HasSubstr("truncated")));
  }
}

// What it costs a process of its own to try a file.
struct Cost {
  double seconds;
  int64_t kilobytes;
};

Cost cost_of(const std::string& path) {
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = fork();
  if (child == 0) {
    rusage before{}, after{};
    getrusage(RUSAGE_SELF, &before);
    bool refused = false;
    try {
      open_gguf(path);
    } catch (const Error&) {
      refused = true;
    }
    getrusage(RUSAGE_SELF, &after);
    // The exit status carries at most a byte: megabytes, rounded up.
    const int64_t megabytes = (after.ru_maxrss - before.ru_maxrss + 1023) / 1024;
    _exit(refused ? static_cast<int>(std::min<int64_t>(megabytes, 254)) : 255);
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_NE(WEXITSTATUS(status), 255) << "not refused";
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), WEXITSTATUS(status) * 1024};
}

TEST_F(HostileTest, LiesInALargeFileCostLittle) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "memory is not measured under a sanitizer";
#endif
  // 4 GB of holes behind the header: what claims to be a gigabyte of it may lie inside the file, and still be a lie.
  const auto cost_of_sparse = [&](const GgufBytes& file) {
    const std::string path = folder_.write("large.gguf", file.file());
    std::filesystem::resize_file(path, uint64_t{4} << 30);
    return cost_of(path);
  };
  std::vector<GgufBytes> files(6);
  files[0].array("bytes", 0, uint64_t{1} << 31, "");
  files[1].array("texts", 8, uint64_t{1} << 28, "");
  files[2].raw("text", 8, GgufBytes::number(uint64_t{1} << 30));
  files[3].key_count = uint64_t{1} << 25;
  files[4].tensor_count = uint64_t{1} << 25;
  files[5].tensors = {{std::string(70000, 'x'), {1}, 0, 4, {}}};
  for (size_t i = 0; i < files.size(); ++i) {
    const Cost cost = cost_of_sparse(files[i]);
    EXPECT_LT(cost.kilobytes, 16 << 10) << i;
    EXPECT_LT(cost.seconds, 5.0) << i;  // milliseconds on an idle machine
  }
}

TEST_F(HostileTest, MemoryIsASmallMultipleOfTheHeader) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "memory is not measured under a sanitizer";
#endif
  // The worst there is: numbers of a byte, empty texts, keys without content; then a tensor that ends all.
  GgufBytes bytes, texts, keys;
  bytes.array("bytes", 0, 10 << 20, std::string(10 << 20, '\1'));
  texts.array("texts", 8, 1 << 20, std::string(8 << 20, '\0'));
  for (int i = 0; i < 60000; ++i) keys.append(GgufBytes::number(i), 0, "x");
  for (GgufBytes* file : {&bytes, &texts, &keys}) {
    file->tensors = {{"w", {0}, 0, 4, {}}};
    const Cost cost = cost_of(folder_.write("wide.gguf", file->file()));
    EXPECT_LT(cost.kilobytes, static_cast<int64_t>(file->header().size() / 1024 * 12 + 4096));
    EXPECT_LT(cost.seconds, 5.0);
  }
}

}  // namespace
}  // namespace spillway

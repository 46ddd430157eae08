// Files that lie, are cut short or damaged, met through the command: exit code 3 and one line that names the file and
// the place in it, soon and within little memory; never a signal.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "tests/apps/program.h"
#include "tests/loader/gguf_bytes.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr double kMostSeconds = 1.0;  // of processor time: a busy machine is no fault of the file's
constexpr unsigned kPatience = 30;    // seconds until it counts as hanging
#ifdef SPILLWAY_SANITIZED
constexpr bool kMeasured = false;
#else
constexpr bool kMeasured = true;
#endif
constexpr uint64_t kMostBytes = 256ull << 20;

class Hostile : public ::testing::Test {
 protected:
  std::vector<std::vector<std::string>> commands(const std::string& model) const {
    return {{"generate", "-m", model, "-p", "abc", "-n", "2", "--temp", "0"},
            {"plan", "-m", model},
            {"score", "-m", model, "--tokens", "1,2,3"}};
  }

  // Of a part, what it has in common with the others: the fault may lie in any of them.
  static std::string file_name(const std::string& model) {
    const std::string name = fs::path(model).filename().string();
    const size_t part = name.find("-00001-of-");
    return part == std::string::npos ? name : name.substr(0, part);
  }

  // Every command refuses it in one line that names the file, and says `what`.
  void refused(const std::string& model, const std::string& what, const std::string& named) {
    for (const std::vector<std::string>& command : commands(model)) {
      SCOPED_TRACE(command.front() + " " + named);
      const Result result = program_.run(command, kPatience);
      EXPECT_EQ(result.exit_code, 3) << result.err;
      EXPECT_EQ(result.out, "");
      EXPECT_THAT(result.err, ::testing::StartsWith("spillway: "));
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      EXPECT_LT(result.err.size(), 1000u);
      EXPECT_THAT(result.err, HasSubstr(file_name(model))) << "the file is named";
      EXPECT_THAT(result.err, HasSubstr(what));
      if (kMeasured) {
        EXPECT_LT(result.cpu_seconds, kMostSeconds);
        EXPECT_LT(result.peak_bytes, kMostBytes);
      }
    }
  }
  void refused(const std::string& model, const std::string& what) { refused(model, what, what); }

  // After `change` of the smallest model.
  using Change = std::function<void(GgufBytes&)>;
  void refused_after(const std::string& what, const Change& change) {
    GgufBytes model = smallest_llama();
    change(model);
    refused(program_.write("hostile.gguf", model.file()), what);
  }

  Program program_;
};

TEST_F(Hostile, TheModelThatIsDamagedHereIsSound) {
  const std::string model = program_.write("sound.gguf", smallest_llama().file());
  for (const std::vector<std::string>& command : commands(model)) {
    const Result result = program_.run(command);
    EXPECT_EQ(result.exit_code, 0) << command.front() << ": " << result.err;
  }
}

// Some models pad the table of their tokens with rows that no token has.
TEST_F(Hostile, RowsWithoutATokenAreNoFault) {
  GgufBytes padded = smallest_llama();
  padded.tensor("token_embd.weight").dims = {16, 10};
  padded.tensor("token_embd.weight").bytes = 640;
  const std::string model = program_.write("padded.gguf", padded.file());
  for (const std::vector<std::string>& command : commands(model)) {
    const Result result = program_.run(command);
    EXPECT_EQ(result.exit_code, 0) << command.front() << ": " << result.err;
  }
  const std::string npy = (program_.folder() / "logits.npy").string();
  EXPECT_EQ(program_.run({"score", "-m", model, "--tokens", "1,2,3", "--logits", npy}).exit_code, 0);
  EXPECT_THAT(read_file(npy), HasSubstr("(3, 10)"));
  EXPECT_EQ(program_.run({"bench", "-m", model, "-p", "4", "-n", "2", "-r", "1"}).exit_code, 0);
}

TEST_F(Hostile, LyingCounts) {
  for (const uint64_t count : {uint64_t{1} << 17, uint64_t{1} << 40, UINT64_MAX}) {
    refused_after("at byte", [&](GgufBytes& model) { model.tensor_count = count; });
    refused_after("at byte", [&](GgufBytes& model) { model.key_count = count; });
    refused_after("at byte", [&](GgufBytes& model) { model.array("zz", 0, count, "abc"); });
    refused_after("at byte", [&](GgufBytes& model) { model.array("zz", 8, count, "abcdefgh"); });
    refused_after("at byte", [&](GgufBytes& model) { model.raw("zz", 8, GgufBytes::number(count)); });
    refused_after("at byte", [&](GgufBytes& model) { model.tensors.front().dims = {count, count}; });
  }
  // Counts that are off by one shift all that follows.
  refused_after("", [](GgufBytes& model) { model.key_count = 13; });
  refused_after("", [](GgufBytes& model) { model.key_count = 15; });
  refused_after("", [](GgufBytes& model) { model.tensor_count = 10; });
  refused_after("", [](GgufBytes& model) { model.tensor_count = 12; });
}

TEST_F(Hostile, LyingTensors) {
  refused_after("the tensor output_norm.weight ends at byte",
                [](GgufBytes& model) { model.tensor("output_norm.weight").offset = uint64_t{1} << 40; });
  refused_after("overflows", [](GgufBytes& model) { model.tensor("output_norm.weight").offset = UINT64_MAX - 31; });
  refused_after("multiple of the alignment", [](GgufBytes& model) { model.tensor("output_norm.weight").offset = 8; });
  refused_after("overlap", [](GgufBytes& model) { model.tensor("output_norm.weight").offset = 32; });
  refused_after("overflow", [](GgufBytes& model) {
    model.tensor("output_norm.weight").dims = {uint64_t{1} << 33, uint64_t{1} << 33};
  });
  refused_after("overflow", [](GgufBytes& model) { model.tensor("output_norm.weight").dims = {uint64_t{1} << 62}; });
  refused_after("dimension 1 is 0", [](GgufBytes& model) { model.tensor("token_embd.weight").dims = {16, 0}; });
  refused_after("5 dimensions", [](GgufBytes& model) { model.tensor("token_embd.weight").dims = {16, 8, 1, 1, 1}; });
  refused_after("0 dimensions", [](GgufBytes& model) { model.tensor("token_embd.weight").dims = {}; });
  refused_after("more than three dimensions", [](GgufBytes& model) {
    model.tensor("blk.0.attn_q.weight").dims = {8, 8, 2, 2};
  });
  refused_after("blk.0.attn_q.weight is 4 times 8 x 8", [](GgufBytes& model) {
    model.tensor("blk.0.attn_q.weight").dims = {8, 8, 4};
  });
  refused_after("blk.0.attn_q.weight is 8 x 16", [](GgufBytes& model) {
    model.tensor("blk.0.attn_q.weight").dims = {16, 8};
  });
  refused_after("the tensor blk.0.attn_q.weight is of IQ2_XXS",
                [](GgufBytes& model) { model.tensor("blk.0.attn_q.weight").type = 16; });
  refused_after("is of type 4000000000",
                [](GgufBytes& model) { model.tensor("blk.0.attn_q.weight").type = 4000000000; });
  refused_after("not a multiple of Q4_0", [](GgufBytes& model) { model.tensor("blk.0.attn_q.weight").type = 2; });
  refused_after("not a multiple of Q6_K", [](GgufBytes& model) { model.tensor("blk.0.attn_q.weight").type = 14; });
  refused_after("the tensor output_norm.weight is missing",
                [](GgufBytes& model) { model.erase_tensor("output_norm.weight"); });
  refused_after("occurs twice", [](GgufBytes& model) { model.tensors.push_back(model.tensors.front()); });
  refused_after("is no part of", [](GgufBytes& model) { model.tensor("blk.7.attn_norm.weight").dims = {1}; });
  refused_after("a tensor's name claims",
                [](GgufBytes& model) { model.tensors.front().name = std::string(70'000, 'x'); });
}

TEST_F(Hostile, LyingKeys) {
  refused_after("occurs twice", [](GgufBytes& model) { model.append("llama.block_count", 4, GgufBytes::number(1)); });
  refused_after("type 13", [](GgufBytes& model) { model.raw("zz", 13, "abcd"); });
  refused_after("type 77", [](GgufBytes& model) { model.array("zz", 77, 4, "abcd"); });
  std::string deep;  // arrays in arrays in arrays ...
  for (int i = 0; i < 10'000; ++i) deep += GgufBytes::number<uint32_t>(9) + GgufBytes::number<uint64_t>(1);
  refused_after("arrays of arrays", [&](GgufBytes& model) { model.raw("zz", 9, deep); });
  refused_after("0 or 1", [](GgufBytes& model) { model.raw("zz", 7, "\7"); });
  refused_after("general.alignment", [](GgufBytes& model) { model.u32("general.alignment", 0); });
  refused_after("general.alignment", [](GgufBytes& model) { model.u32("general.alignment", 48); });
  refused_after("the key general.architecture is missing",
                [](GgufBytes& model) { model.erase("general.architecture"); });
  refused_after("\"mamba\" is not known", [](GgufBytes& model) { model.text("general.architecture", "mamba"); });
  refused_after("general.architecture holds an integer",
                [](GgufBytes& model) { model.u32("general.architecture", 3); });
  refused_after("x\\x1b[2J", [](GgufBytes& model) { model.text("general.architecture", "x\x1b[2J\n\n"); });
}

TEST_F(Hostile, ImpossibleShapes) {
  const auto with = [&](const std::string& key, uint32_t value) {
    refused_after("llama." + key, [&](GgufBytes& model) { model.u32("llama." + key, value); });
  };
  for (const uint32_t value : {0u, 0xffffffffu}) {
    with("block_count", value);
    with("embedding_length", value);
    with("feed_forward_length", value);
    with("attention.head_count", value);
    with("attention.head_count_kv", value);
    with("context_length", value);
    with("rope.dimension_count", value);
    with("vocab_size", value);
  }
  refused_after("blk.1.attn_norm.weight is missing", [](GgufBytes& model) { model.u32("llama.block_count", 2); });
  refused_after("cannot share 3", [](GgufBytes& model) { model.u32("llama.attention.head_count_kv", 3); });
  // 16 elements do not divide among 3 heads, and no key says how long they are.
  refused_after("llama.attention.key_length", [](GgufBytes& model) {
    model.u32("llama.attention.head_count", 3);
    model.u32("llama.attention.head_count_kv", 3);
  });
  for (const float value : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    refused_after("llama.attention.layer_norm_rms_epsilon",
                  [&](GgufBytes& model) { model.f32("llama.attention.layer_norm_rms_epsilon", value); });
    refused_after("llama.rope.freq_base", [&](GgufBytes& model) { model.f32("llama.rope.freq_base", value); });
  }
}

TEST_F(Hostile, ImpossibleVocabularies) {
  const std::string tokens = "tokenizer.ggml.tokens", types = "tokenizer.ggml.token_type",
                    merges = "tokenizer.ggml.merges";
  refused_after(tokens + " is missing", [&](GgufBytes& model) { model.erase(tokens); });
  refused_after(tokens + " is empty", [&](GgufBytes& model) { model.texts(tokens, {}); });
  refused_after(tokens + " holds an integer", [&](GgufBytes& model) { model.u32(tokens, 1); });
  refused_after(tokens + " holds an array", [&](GgufBytes& model) { model.i32s(tokens, {1, 2}); });
  refused_after("9 tokens, but only 8 rows",
                [&](GgufBytes& model) { model.texts(tokens, std::vector<std::string>(9, "a")); });
  refused_after(types, [&](GgufBytes& model) { model.i32s(types, {3, 1, 1}); });
  refused_after(types, [&](GgufBytes& model) { model.i32s(types, {3, 1, 1, 1, 1, 1, 1, 99}); });
  refused_after(types, [&](GgufBytes& model) { model.text(types, "normal"); });
  refused_after(merges + " is missing", [&](GgufBytes& model) { model.erase(merges); });
  refused_after("speaks of a token that does not exist", [&](GgufBytes& model) {
    model.texts(merges, {"a b", "a q"});
  });
  refused_after("is not a pair", [&](GgufBytes& model) { model.texts(merges, {"ab"}); });
  refused_after("is not a pair", [&](GgufBytes& model) { model.texts(merges, {""}); });
  refused_after("tokenizer.ggml.eos_token_id is 8",
                [&](GgufBytes& model) { model.u32("tokenizer.ggml.eos_token_id", 8); });
  refused_after("tokenizer.ggml.bos_token_id",
                [&](GgufBytes& model) { model.u32("tokenizer.ggml.bos_token_id", 1u << 31); });
  refused_after("tokenizer.ggml.pre", [&](GgufBytes& model) { model.text("tokenizer.ggml.pre", "gpt-9"); });
  refused_after("tokenizer.ggml.model", [&](GgufBytes& model) { model.text("tokenizer.ggml.model", "unigram"); });
}

TEST_F(Hostile, CutShort) {
  const GgufBytes model = smallest_llama();
  const std::string whole = model.file();
  refused(program_.write("cut.gguf", ""), "empty", "empty");
  for (size_t bytes = 1; bytes < whole.size(); bytes += 1 + bytes / 8) {
    refused(program_.write("cut.gguf", whole.substr(0, bytes)), "at byte", std::to_string(bytes) + " bytes");
  }
  refused(program_.write("cut.gguf", whole.substr(0, whole.size() - 1)), "truncated", "all but a byte");
}

TEST_F(Hostile, NoModelAtAll) {
  fs::create_directory(program_.folder() / "folder.gguf");
  refused((program_.folder() / "folder.gguf").string(), "a folder");
  refused((program_.folder() / "none.gguf").string(), "no such file");
  refused(program_.write("text.gguf", std::string(4096, 'x')), "not a GGUF");
  refused(program_.write("zeros.gguf", std::string(4096, '\0')), "not a GGUF");
}

TEST_F(Hostile, Parts) {
  const std::string folder = program_.folder().string();
  const auto part = [&](const std::string& name, int number, int count) {
    char tail[32];
    std::snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", number, count);
    return folder + "/" + name + tail;
  };
  write_tiny_model({.layers = 2, .vocab = 320, .parts = 3, .name = "whole"}, folder);
  write_tiny_model({.layers = 3, .vocab = 320, .parts = 3, .name = "other"}, folder);
  EXPECT_EQ(program_.run({"plan", "-m", part("whole", 1, 3)}).exit_code, 0);
  refused(part("whole", 2, 3), "give the first part");
  // Missing, foreign, in the wrong place, of another number of parts.
  fs::rename(part("whole", 2, 3), folder + "/kept");
  refused(part("whole", 1, 3), "part 2 of 3 cannot be opened");
  fs::copy_file(part("other", 2, 3), part("whole", 2, 3));
  refused(part("whole", 1, 3), "", "a foreign part");
  fs::remove(part("whole", 2, 3));
  fs::copy_file(part("whole", 3, 3), part("whole", 2, 3));
  refused(part("whole", 1, 3), "its own header says part 3 of 3, its name part 2 of 3");
  fs::remove(part("whole", 2, 3));
  fs::copy_file(part("whole", 1, 3), part("whole", 2, 3));
  refused(part("whole", 1, 3), "its own header says part 1 of 3, its name part 2 of 3");
  fs::remove(part("whole", 2, 3));
  fs::rename(folder + "/kept", part("whole", 2, 3));
  fs::resize_file(part("whole", 2, 3), fs::file_size(part("whole", 2, 3)) / 2);
  refused(part("whole", 1, 3), "whole-00002-of-00003.gguf");
  fs::copy_file(part("other", 1, 3), folder + "/alone.gguf");
  refused(folder + "/alone.gguf", "must be named");
}

// A file of holes may claim gigabytes and hold them.
TEST_F(Hostile, HolesCostLittle) {
  const auto refused_with_holes = [&](const std::string& what, const Change& change) {
    GgufBytes model = smallest_llama();
    change(model);
    const std::string path = program_.write("holes.gguf", model.header());
    fs::resize_file(path, uint64_t{8} << 30);
    refused(path, what);
  };
  refused_with_holes("at byte", [](GgufBytes& model) { model.array("zz", 0, uint64_t{1} << 32, ""); });
  refused_with_holes("at byte", [](GgufBytes& model) { model.array("zz", 0, uint64_t{1} << 24, ""); });
  refused_with_holes("at byte", [](GgufBytes& model) { model.array("zz", 8, uint64_t{1} << 24, ""); });
  refused_with_holes("at byte", [](GgufBytes& model) { model.array("zz", 8, uint64_t{15} << 20, ""); });
  refused_with_holes("at byte", [](GgufBytes& model) { model.raw("zz", 8, GgufBytes::number(uint64_t{60} << 20)); });
  refused_with_holes("at byte", [](GgufBytes& model) { model.key_count = 1 << 16; });
  refused_with_holes("at byte", [](GgufBytes& model) { model.tensor_count = 1 << 17; });
  refused_with_holes("at byte", [](GgufBytes& model) {
    for (int i = 0; i < 7; ++i) model.array("z" + std::to_string(i), 0, 1 << 24, std::string(1 << 24, '\0'));
    model.key_count = 30;
  });
  refused_with_holes("tokens", [](GgufBytes& model) {
    model.array("tokenizer.ggml.tokens", 8, 2 << 20, std::string(16 << 20, '\0'));
  });
  refused_with_holes("take more than", [](GgufBytes& model) {
    model.array("tokenizer.ggml.tokens", 8, 14 << 20, std::string(112 << 20, '\0'));
  });
  // As many tokens as are read, each with a row; and as many merges as are held beside them.
  const auto large = [](GgufBytes& model, uint64_t tokens) {
    model.array("tokenizer.ggml.tokens", 8, tokens, std::string(8 * tokens, '\0'));
    model.array("tokenizer.ggml.token_type", 0, tokens, std::string(tokens, '\1'));
    model.tensor("token_embd.weight").dims = {16, tokens};
    model.tensor("token_embd.weight").bytes = 64 * tokens;
  };
  refused_with_holes("tokens; at most", [&](GgufBytes& model) { large(model, (1 << 20) + 1); });
  refused_with_holes("is not a pair", [&](GgufBytes& model) {
    large(model, 1 << 20);
    model.array("tokenizer.ggml.merges", 8, 1'800'000, std::string(8 * 1'800'000, '\0'));
  });
  refused_with_holes("does not exist", [&](GgufBytes& model) {
    large(model, 1 << 20);
    std::string merges;
    for (int i = 0; i < 1'600'000; ++i) merges += GgufBytes::string("  ");
    model.array("tokenizer.ggml.merges", 8, 1'600'000, merges);
  });
}

// What a damaged drive does. Names and numbers may be anything, so a damaged file may still be a model: but then it
// runs.
TEST_F(Hostile, FlippedBits) {
  const std::string path = write_tiny_model({.layers = 1,
                                             .hidden = 32,
                                             .heads = 2,
                                             .kv_heads = 1,
                                             .head_dim = 16,
                                             .ffn = 32,
                                             .vocab = 259,
                                             .seed = 3,
                                             .name = "flipped"},
                                            program_.folder().string());
  const std::string sound = read_file(path);
  const size_t header = sound.find("blk.0.attn_norm.weight");
  ASSERT_NE(header, std::string::npos);
  std::mt19937_64 random(17);
  int opened = 0, refused = 0;
  for (int i = 0; i < 400; ++i) {
    // In turn the whole file, the keys, and the list of tensors with what surrounds it.
    const size_t begin = i % 3 == 2 ? header - 200 : 0;
    const size_t end = i % 3 == 0 ? sound.size() : i % 3 == 1 ? 2000 : std::min(header + 1200, sound.size());
    const size_t bit = begin * 8 + random() % ((end - begin) * 8);
    std::string damaged = sound;
    damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
    program_.write("flipped.gguf", damaged);
    const std::vector<std::string> command = commands(path)[i % 2 == 0 ? 0 : 2];
    const Result result = program_.run(command, kPatience);
    ASSERT_THAT(result.exit_code, ::testing::AnyOf(0, 3))
        << "bit " << bit << ": " << command.front() << ": " << result.err;
    if (result.exit_code == 3) {
      EXPECT_THAT(result.err, HasSubstr("spillway: "));
      if (kMeasured) {
        EXPECT_LT(result.peak_bytes, kMostBytes) << "bit " << bit;
      }
    }
    (result.exit_code == 0 ? opened : refused) += 1;
  }
  std::printf("%d damaged files ran, %d were refused\n", opened, refused);
  EXPECT_GT(opened, 50);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace spillway

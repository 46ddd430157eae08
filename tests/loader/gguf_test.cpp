#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "loader/checkpoint.h"
#include "tests/loader/gguf_bytes.h"
#include "loader/gguf_writer.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class GgufTest : public testing::Test {
 protected:
  std::string refused(const std::string& path) {
    try {
      open_gguf(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "not refused: " << path;
    return "";
  }

  TemporaryFolder folder_;
};

std::vector<std::byte> bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  const Extent& extent = checkpoint.require(name).extent;
  std::vector<std::byte> bytes(extent.bytes);
  checkpoint.files[extent.file].read(extent.offset, bytes);
  return bytes;
}

// Each byte of a tensor says which tensor and where.
void fill_by_rule(const GgufTensor& tensor, int64_t first_row, int64_t rows, std::byte* into) {
  const uint64_t stride = row_bytes(tensor.dtype, tensor.cols);
  for (uint64_t i = 0; i < rows * stride; ++i) {
    into[i] = static_cast<std::byte>(tensor.name.back() * 7 + (first_row * stride + i) * 13);
  }
}

TEST_F(GgufTest, ReadsEveryKindOfValue) {
  GgufBytes file;
  file.raw("u8", 0, GgufBytes::number<uint8_t>(200));
  file.raw("i8", 1, GgufBytes::number<int8_t>(-100));
  file.raw("u16", 2, GgufBytes::number<uint16_t>(60000));
  file.raw("i16", 3, GgufBytes::number<int16_t>(-30000));
  file.u32("u32", 4000000000u);
  file.raw("i32", 5, GgufBytes::number<int32_t>(-2000000000));
  file.f32("f32", 1.5f);
  file.flag("yes", true);
  file.text("text", "a\nb");
  file.raw("u64", 10, GgufBytes::number<uint64_t>(1ull << 62));
  file.raw("huge", 10, GgufBytes::number<uint64_t>(1ull << 63));
  file.raw("i64", 11, GgufBytes::number<int64_t>(-5));
  file.raw("f64", 12, GgufBytes::number<double>(0.1));
  file.texts("texts", {"", "a", "long enough not to fit into the string itself"});
  file.i32s("i32s", {-1, 2});
  file.array("f32s", 6, 2, GgufBytes::number(0.5f) + GgufBytes::number(-2.0f));
  file.array("flags", 7, 2, std::string("\1\0", 2));
  const Checkpoint checkpoint = open_gguf(folder_.write("values.gguf", file.file()));
  EXPECT_EQ(checkpoint.integer("u8"), 200);
  EXPECT_EQ(checkpoint.integer("i8"), -100);
  EXPECT_EQ(checkpoint.integer("u16"), 60000);
  EXPECT_EQ(checkpoint.integer("i16"), -30000);
  EXPECT_EQ(checkpoint.integer("u32"), 4000000000);
  EXPECT_EQ(checkpoint.integer("i32"), -2000000000);
  EXPECT_EQ(checkpoint.number("f32"), 1.5);
  EXPECT_EQ(checkpoint.number("u8"), 200.0);
  EXPECT_EQ(checkpoint.integer("yes"), 1);
  EXPECT_EQ(checkpoint.text("text"), "a\nb");
  EXPECT_EQ(checkpoint.integer("u64"), int64_t{1} << 62);
  EXPECT_EQ(checkpoint.number("huge"), 9223372036854775808.0);
  EXPECT_EQ(checkpoint.integer("i64"), -5);
  EXPECT_EQ(checkpoint.number("f64"), 0.1);
  EXPECT_THAT(*checkpoint.strings("texts"),
              testing::ElementsAre("", "a", "long enough not to fit into the string itself"));
  const auto array = [&](const char* key) { return std::get<MetaArray>(checkpoint.meta.at(key)); };
  EXPECT_THAT(std::get<std::vector<int64_t>>(array("i32s")), testing::ElementsAre(-1, 2));
  EXPECT_THAT(std::get<std::vector<double>>(array("f32s")), testing::ElementsAre(0.5, -2.0));
  EXPECT_THAT(std::get<std::vector<int64_t>>(array("flags")), testing::ElementsAre(1, 0));
}

TEST_F(GgufTest, LookUpsFallBackOrNameTheKey) {
  GgufBytes file;
  file.text("text", "a");
  const Checkpoint checkpoint = open_gguf(folder_.write("keys.gguf", file.file()));
  EXPECT_EQ(checkpoint.integer("none", 7), 7);
  EXPECT_EQ(checkpoint.number("none", 0.5), 0.5);
  EXPECT_EQ(checkpoint.text("none", "x"), "x");
  EXPECT_EQ(checkpoint.strings("none"), nullptr);
  EXPECT_EQ(checkpoint.find("none"), nullptr);
  const auto message = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      return error.kind() == ErrorKind::model ? error.what() : "another kind";
    }
    return "nothing thrown";
  };
  EXPECT_THAT(message([&] { checkpoint.integer("none"); }),
              AllOf(HasSubstr("keys.gguf"), HasSubstr("none is missing")));
  // A fallback stands in for a missing key, never for a wrong one.
  EXPECT_THAT(message([&] { checkpoint.integer("text", 1); }), HasSubstr("text holds a text where an integer"));
  EXPECT_THAT(message([&] { checkpoint.number("text", 1.0); }), HasSubstr("where a number"));
  EXPECT_THAT(message([&] { checkpoint.strings("text"); }), HasSubstr("an array of texts"));
  EXPECT_THAT(message([&] { checkpoint.require("w"); }),
              AllOf(HasSubstr("keys.gguf"), HasSubstr("the tensor w is missing")));
}

TEST_F(GgufTest, ReadsTensorsInPlaceInEveryVersionAlignmentAndNumberOfParts) {
  const std::vector<GgufTensor> tensors = {
      {"a", DType::f32, 3, 5},        {"b", DType::f16, 2, 7},    {"c", DType::bf16, 1, 9},
      {"d", DType::q8_0, 4, 64},      {"e", DType::q4_0, 5, 32},  {"f", DType::q4_1, 3, 96},
      {"g", DType::f32, 1, 11, true}, {"h", DType::q5_0, 2, 64},  {"i", DType::q5_1, 2, 32},
      {"j", DType::iq4_nl, 3, 32},    {"k", DType::q2_k, 3, 256}, {"l", DType::q3_k, 1, 512},
      {"m", DType::q4_k, 3, 256},     {"n", DType::q5_k, 2, 512}, {"o", DType::q6_k, 3, 256},
      {"p", DType::iq4_xs, 2, 256}};
  for (const uint32_t version : {2u, 3u}) {
    for (const uint32_t alignment : {8u, 32u, 4096u}) {
      for (const int parts : {1, 2, 3, 7}) {
        GgufWriter writer({.version = version, .alignment = alignment, .parts = parts});
        writer.set("general.architecture", std::string("llama"));
        for (const GgufTensor& tensor : tensors) writer.add(tensor);
        const std::string path = writer.write(folder_.path() + "/model.gguf", fill_by_rule);
        const Checkpoint checkpoint = open_gguf(path);
        ASSERT_EQ(checkpoint.files.size(), static_cast<size_t>(parts));
        ASSERT_EQ(checkpoint.tensors.size(), tensors.size());
        EXPECT_EQ(checkpoint.weight_bytes(), writer.tensor_bytes());
        EXPECT_EQ(checkpoint.text("general.architecture"), "llama");
        for (const GgufTensor& tensor : tensors) {
          const TensorInfo& read = checkpoint.require(tensor.name);
          EXPECT_EQ(read.name, tensor.name);
          EXPECT_EQ(read.dtype, tensor.dtype);
          EXPECT_EQ(read.rows, tensor.rows);
          EXPECT_EQ(read.cols, tensor.cols);
          EXPECT_EQ(read.extent.bytes, tensor.bytes());
          EXPECT_EQ(read.extent.offset % alignment, 0u);
          std::vector<std::byte> expected(tensor.bytes());
          fill_by_rule(tensor, 0, tensor.rows, expected.data());
          EXPECT_EQ(bytes_of(checkpoint, tensor.name), expected) << tensor.name;
        }
      }
    }
  }
}

TEST_F(GgufTest, ManyTokensAreReadQuickly) {
  GgufBytes file;
  std::vector<std::string> tokens, merges;
  for (int i = 0; i < 150000; ++i) tokens.push_back("token" + std::to_string(i));
  for (int i = 0; i < 150000; ++i) merges.push_back("token " + std::to_string(i) + " and a longer second part");
  file.texts("tokenizer.ggml.tokens", tokens);
  file.texts("tokenizer.ggml.merges", merges);
  const std::string path = folder_.write("tokens.gguf", file.file());
  const auto start = std::chrono::steady_clock::now();
  const Checkpoint checkpoint = open_gguf(path);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));  // about 20 ms on an idle machine
  EXPECT_EQ(*checkpoint.strings("tokenizer.ggml.tokens"), tokens);
  EXPECT_EQ(*checkpoint.strings("tokenizer.ggml.merges"), merges);
}

class SplitTest : public GgufTest {
 protected:
  std::string part(int number) const {
    return folder_.path() + "/tiny-0000" + std::to_string(number) + "-of-00003.gguf";
  }
  std::string write_parts() const { return write_tiny_model({.layers = 1, .parts = 3}, folder_.path()); }
};

TEST_F(SplitTest, TheFirstPartIsToBeGiven) {
  ASSERT_EQ(write_parts(), part(1));
  EXPECT_EQ(open_gguf(part(1)).files.size(), 3u);
  EXPECT_THAT(refused(part(2)), AllOf(HasSubstr("part 2 of 3"), HasSubstr("give the first part"), HasSubstr(part(1))));
}

TEST_F(SplitTest, AMissingPartIsNamed) {
  write_parts();
  std::filesystem::remove(part(3));
  EXPECT_THAT(refused(part(1)), AllOf(HasSubstr("part 3 of 3"), HasSubstr(part(3))));
}

TEST_F(SplitTest, PartsThatDisagreeAreRefused) {
  write_parts();
  std::filesystem::copy_file(part(2), part(3), std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(refused(part(1)), AllOf(HasSubstr(part(3)), HasSubstr("part 2 of 3")));
  write_parts();
  std::filesystem::copy_file(part(2), part(1), std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(refused(part(1)), HasSubstr("was it renamed?"));
  write_parts();
  std::filesystem::rename(part(1), folder_.path() + "/first.gguf");
  EXPECT_THAT(refused(folder_.path() + "/first.gguf"), HasSubstr("-00001-of-00003.gguf"));
}

TEST_F(SplitTest, TensorsAreCountedAndOccurOnce) {
  GgufBytes first, second;
  for (GgufBytes* part : {&first, &second}) {
    part->raw("split.count", 2, GgufBytes::number<uint16_t>(2));
    part->raw("split.no", 2, GgufBytes::number<uint16_t>(part == &second));
    part->raw("split.tensors.count", 5, GgufBytes::number<int32_t>(2));
  }
  first.tensor("a");
  second.tensor("b");
  const std::string path = folder_.write("m-00001-of-00002.gguf", first.file());
  folder_.write("m-00002-of-00002.gguf", second.file());
  EXPECT_EQ(open_gguf(path).tensors.size(), 2u);
  second.tensor("c");
  folder_.write("m-00002-of-00002.gguf", second.file());
  EXPECT_THAT(refused(path), AllOf(HasSubstr("hold 3 tensors"), HasSubstr("says 2")));
  second.erase_tensor("b");
  second.tensor("c").name = "a";
  folder_.write("m-00002-of-00002.gguf", second.file());
  EXPECT_THAT(refused(path), AllOf(HasSubstr("the tensor a occurs twice"), HasSubstr("m-00002"), HasSubstr("byte")));
  second.erase("split.no");
  folder_.write("m-00002-of-00002.gguf", second.file());
  EXPECT_THAT(refused(path), HasSubstr("m-00002"));
}

}  // namespace
}  // namespace spillway

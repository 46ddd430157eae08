// safetensors headers, sound and hostile.
#include "loader/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string file_of(const std::string& header, size_t data, std::optional<uint64_t> length = {}) {
  const uint64_t bytes = length.value_or(header.size());
  return std::string(reinterpret_cast<const char*>(&bytes), sizeof bytes) + header + std::string(data, '\0');
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape + R"(],"data_offsets":[)" + offsets + "]}";
}

// Padded as writers do, so that data begins at a multiple of 8.
std::string header_of(const std::string& entries) {
  std::string header = "{" + entries + "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

class Safetensors : public testing::Test {
 protected:
  std::map<std::string, TensorInfo> read(const std::string& bytes) {
    const File file = File::open_read(folder_.write("model.safetensors", bytes));
    std::map<std::string, TensorInfo> tensors;
    read_safetensors(file, 3, tensors);
    return tensors;
  }
  std::string refused(const std::string& bytes) {
    try {
      read(bytes);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("model.safetensors"), HasSubstr("at byte")));
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }
  std::string refused_entry(const std::string& entries, size_t data = 64) {
    return refused(file_of(header_of(entries), data));
  }

  TemporaryFolder folder_;
};

TEST_F(Safetensors, ExtentsOfTheFile) {
  const std::string header = header_of(R"("__metadata__":{"format":"pt"},)" + entry("a", "F32", "2,3", "0,24") + "," +
                                       entry("b", "BF16", "4", "24,32") + "," + entry("c", "F16", "2,2,3", "32,56") +
                                       "," + entry("ids", "I64", "1", "56,64"));
  const auto tensors = read(file_of(header, 64));
  ASSERT_EQ(tensors.size(), 3u);  // integers are no weights
  const TensorInfo& a = tensors.at("a");
  EXPECT_EQ(a.dtype, DType::f32);
  EXPECT_EQ(a.rows, 2);
  EXPECT_EQ(a.cols, 3);
  EXPECT_EQ(a.extent.file, 3u);
  EXPECT_EQ(a.extent.offset, 8 + header.size());
  EXPECT_EQ(a.extent.bytes, 24u);
  EXPECT_EQ(tensors.at("b").rows, 1);
  EXPECT_EQ(tensors.at("b").cols, 4);
  EXPECT_EQ(tensors.at("c").rows, 4);
  EXPECT_EQ(tensors.at("c").cols, 3);
}

TEST_F(Safetensors, LyingHeaders) {
  EXPECT_THAT(refused("abc"), HasSubstr("length of the header"));
  EXPECT_THAT(refused(file_of("{}", 0, 1000)), HasSubstr("the header needs 1000 bytes"));
  EXPECT_THAT(refused(file_of("{}", 0, UINT64_MAX)), HasSubstr("the header needs"));
  EXPECT_THAT(refused(file_of("{\"a\":", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(refused(file_of("[1]", 0)), HasSubstr("a list where the format has none"));
  EXPECT_THAT(refused(file_of("7", 0)), HasSubstr("a number where the format has none"));
  EXPECT_THAT(refused(file_of(std::string(100000, '['), 0)), HasSubstr("a list"));
  EXPECT_THAT(refused_entry(R"("a":5)"), HasSubstr("the tensor a has a number"));
  EXPECT_THAT(refused_entry(R"("a":{"shape":[1]})"), HasSubstr("lacks its dtype"));
  EXPECT_THAT(refused_entry(R"("a":{"x":1})"), HasSubstr("the key x"));
  EXPECT_THAT(refused_entry(R"("a":{"shape":{"y":1}})"), HasSubstr("an object"));
  EXPECT_THAT(refused_entry(R"("a":{"shape":[[1]]})"), HasSubstr("a list"));
  EXPECT_THAT(refused_entry(R"("a":{"shape":[1],"shape":[1]})"), HasSubstr("shape twice"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "1,1,1,1,1,1,1,1,1", "0,4")), HasSubstr("more than 8 numbers"));
  for (const char* metadata : {R"({"a":{"b":"c"}})", R"({"a":["b"]})", R"({"a":[1]})", R"([{},{"dtype":"F32"}])"}) {
    EXPECT_THAT(refused_entry(std::string(R"("__metadata__":)") + metadata),
                HasSubstr("__metadata__ has an object or a list"));
  }
}

TEST_F(Safetensors, LyingTensors) {
  EXPECT_THAT(refused_entry(entry("a", "Q4_0", "1", "0,4")),
              AllOf(HasSubstr("is of type Q4_0"), HasSubstr("F32, F16 and BF16")));
  EXPECT_THAT(refused_entry(entry("a", "F32", "4", "0,12")), HasSubstr("12 bytes of data, but its shape"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "4", "60,76")), HasSubstr("truncated or lies"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "4", "16,0")), HasSubstr("truncated or lies"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "-4", "0,16")), HasSubstr("a negative number"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "4.5", "0,16")), HasSubstr("a fraction"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "4294967296,4294967296", "0,0")), HasSubstr("overflows"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "0", "0,0")), HasSubstr("is empty"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "1", "2,6")), HasSubstr("not aligned"));
  // As older writers left it: the length of the header makes data begin anywhere.
  EXPECT_THAT(
      refused(file_of("{" + entry("a", "F32", "1", "0,4") + "}", 4)),
      AllOf(HasSubstr("the tensor a is not aligned to its elements of 4 bytes"), HasSubstr("save_file(load_file")));
  EXPECT_THAT(refused_entry(entry("a", "F32", "2", "0,8") + "," + entry("b", "F32", "2", "4,12")),
              HasSubstr("a and b overlap"));
  EXPECT_THAT(refused_entry(entry("a", "F32", "2", "0,8") + "," + entry("a", "F32", "2", "8,16")),
              HasSubstr("a occurs twice"));
}

}  // namespace
}  // namespace spillway

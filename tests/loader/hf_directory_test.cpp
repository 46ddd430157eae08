// JSON of a Hugging Face directory that is made to be read without an end.
#include "loader/hf_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

class HfDirectory : public testing::Test {
 protected:
  std::string refused() {
    try {
      open_hf_directory(folder_.path());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }

  TemporaryFolder folder_;
};

// Each was copied, or printed into a message, by a function that calls itself for every level.
TEST_F(HfDirectory, DepthIsBounded) {
  const std::string deep = nested(1'000'000);
  for (const std::string& config :
       {deep, R"({"text_config":{"a":)" + deep + "}}", R"({"model_type":"llama","hidden_act":)" + deep + "}",
        R"({"model_type":"llama","sliding_window":4,"layer_types":[)" + deep + "]}"}) {
    folder_.write("config.json", config);
    EXPECT_THAT(refused(), AllOf(HasSubstr("config.json"), HasSubstr("nested deeper than 64")));
  }
  folder_.write("config.json", R"({"model_type":"llama"})");
  folder_.write("model.safetensors.index.json", R"({"weight_map":{"a":)" + deep + "}}");
  EXPECT_THAT(refused(), AllOf(HasSubstr("index.json"), HasSubstr("nested deeper than 64")));
}

TEST_F(HfDirectory, SoAreValues) {
  std::string many = "[[]";
  for (int i = 0; i < 500'000; ++i) many += ",[]";
  folder_.write("config.json", R"({"model_type":"llama","a":)" + many + "]}");
  EXPECT_THAT(refused(), HasSubstr("more than 400000 values"));
}

}  // namespace
}  // namespace spillway

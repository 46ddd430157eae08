// The file of a skew: what is in it is what was asked for, and nothing that is wrong with it is believed.
#include "runtime/skew.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "loader/gguf_writer.h"
#include "runtime/fingerprint.h"
#include "runtime/skew_file.h"
#include "tests/support/placed_run.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kPrint = "0123456789abcdef";

class SkewFileTest : public ::testing::Test {
 protected:
  SkewFileTest() : folder_(::testing::TempDir() + "skew-" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
    model_ = write_tiny_model({.layers = 3, .name = "skewed"}, folder_);
    spec_ = open_for_test(model_).spec;
  }
  ~SkewFileTest() override { std::filesystem::remove_all(folder_); }

  struct Wrong {
    std::function<void(GgufWriter&)> facts = [](GgufWriter&) {};
    std::string without;                               // a tensor that is left out
    std::string longer;                                // one with a row more
    std::pair<std::string, float> value = {"", 0.0f};  // one whose first number is this
  };

  // Tensor t of layer l holds 100 l + t in its first number, then 0.
  std::string write(const Wrong& wrong, int layers = 3) const {
    GgufWriter writer;
    writer.set("general.type", std::string(kSkewType));
    writer.set(kSkewVersion, uint32_t{kSkewFormat});
    writer.set(kSkewFingerprint, std::string(kPrint));
    writer.set(kSkewTextName, std::string("a text"));
    writer.set(kSkewTextHash, std::string("feed"));
    writer.set(kSkewContext, uint32_t{640});
    writer.set(kSkewAhead, uint32_t{1});
    writer.set(kSkewGuess, std::string("ridge"));
    wrong.facts(writer);
    for (int layer = 0; layer < layers; ++layer) {
      for (const SkewTensor& tensor : skew_tensors(spec_.shape, layer, layer > 0)) {
        if (tensor.name == wrong.without) continue;
        const int64_t more = tensor.name == wrong.longer ? 1 : 0;
        writer.add({.name = tensor.name, .dtype = tensor.dtype, .rows = tensor.rows + more, .cols = tensor.cols});
      }
    }
    return writer.write(folder_ + "/s.gguf", [&](const GgufTensor& tensor, int64_t, int64_t rows, std::byte* into) {
      std::memset(into, 0, rows * row_bytes(tensor.dtype, tensor.cols));
      const auto tensors = writer.tensors();
      float first = 0;
      for (size_t i = 0; i < tensors.size(); ++i)
        first = tensors[i].name == tensor.name ? static_cast<float>(i) : first;
      if (tensor.name == wrong.value.first) first = wrong.value.second;
      if (tensor.dtype == DType::f32) std::memcpy(into, &first, sizeof first);
    });
  }

  std::string refusal(const Wrong& wrong, int layers = 3) const {
    try {
      open_skew(write(wrong, layers), spec_, kPrint);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model) << error.what();
      return error.what();
    }
    return "taken";
  }

  std::string folder_, model_;
  ModelSpec spec_;
};

TEST_F(SkewFileTest, HoldsWhatWasWritten) {
  const Skew skew = open_skew(write({}), spec_, kPrint);
  EXPECT_EQ(skew.context, 640);
  EXPECT_EQ(skew.ahead, 1);
  EXPECT_EQ(skew.guess, QueryGuess::ridge);
  EXPECT_EQ(skew.text_name, "a text");
  ASSERT_EQ(skew.layers.size(), 3u);
  EXPECT_EQ(skew.layers[0].matrix.cols, 0) << "the first layer sees its own input";
  EXPECT_EQ(skew.layers[1].matrix.rows, spec_.shape.q_width());
  EXPECT_EQ(skew.source(0), 0);
  EXPECT_EQ(skew.source(2), 1);
  // Layer 0 has four tensors, layer 1 six: keys are the third of those.
  const HostKeyBasis basis = skew.basis(1, 16);
  const size_t d = spec_.shape.head_dim;
  ASSERT_EQ(basis.keys.size(), spec_.shape.kv_heads * 16 * d);
  EXPECT_EQ(basis.keys[0], 6.0f);
  EXPECT_EQ(basis.queries[0], 7.0f);
  EXPECT_EQ(basis.mean[0], 8.0f);
  EXPECT_EQ(skew.principal_basis(1, 8).keys[0], 9.0f);
  EXPECT_EQ(skew.principal_basis(1, 8).queries[0], 9.0f);
  EXPECT_EQ(skew.bias(1)[0], 5.0f);
  EXPECT_TRUE(skew.bias(0).empty());
}

TEST_F(SkewFileTest, WhatIsWrongIsNamed) {
  const auto set = [](const char* key, GgufValue value) {
    return Wrong{.facts = [key, value](GgufWriter& writer) { writer.set(key, value); }};
  };
  EXPECT_THAT(refusal(set(kSkewFingerprint, std::string("fedcba9876543210"))),
              AllOf(HasSubstr("fedcba9876543210"), HasSubstr(kPrint), HasSubstr("spillway calibrate")));
  EXPECT_THAT(refusal(set(kSkewVersion, uint32_t{99})), HasSubstr("format 99"));
  EXPECT_THAT(refusal(set("general.type", std::string("model"))), HasSubstr("not a file of skew"));
  EXPECT_THAT(refusal(set(kSkewContext, uint32_t{0})), HasSubstr(kSkewContext));
  EXPECT_THAT(refusal(set(kSkewContext, std::string("many"))), HasSubstr(kSkewContext));
  EXPECT_THAT(refusal(set(kSkewAhead, uint32_t{7})), HasSubstr(kSkewAhead));
  EXPECT_THAT(refusal(set(kSkewGuess, std::string("\x1bguess"))),
              AllOf(HasSubstr("gain or ridge"), HasSubstr("\\x1b")));
  EXPECT_THAT(refusal({.without = "1.query.weight"}), HasSubstr("1.query.weight is missing"));
  EXPECT_THAT(refusal({.longer = "2.mean.key"}), AllOf(HasSubstr("2.mean.key"), HasSubstr("[3 x 64]")));
  EXPECT_THAT(refusal({}, 2), HasSubstr("2.query.weight is missing"));
}

TEST_F(SkewFileTest, OneToComeHasTheSizesOfTheOneThatIsMade) {
  const Skew made = open_skew(write({}), spec_, kPrint), to_come = skew_to_come(spec_, made.ahead);
  EXPECT_EQ(to_come.context, 0);
  ASSERT_EQ(to_come.layers.size(), made.layers.size());
  for (size_t layer = 0; layer < made.layers.size(); ++layer) {
    for (TensorInfo SkewLayer::*member : {&SkewLayer::matrix, &SkewLayer::bias, &SkewLayer::keys, &SkewLayer::queries,
                                          &SkewLayer::mean, &SkewLayer::principal}) {
      const TensorInfo &one = made.layers[layer].*member, &other = to_come.layers[layer].*member;
      EXPECT_EQ(other.dtype, one.dtype);
      EXPECT_EQ(other.rows, one.rows);
      EXPECT_EQ(other.cols, one.cols);
      EXPECT_EQ(other.extent.bytes, one.extent.bytes);
    }
  }
}

TEST_F(SkewFileTest, NumbersThatAreNoneAreRefusedWhenRead) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const Skew skew = open_skew(write({.value = {"1.directions.key", bad}}), spec_, kPrint);
    EXPECT_NO_THROW(skew.basis(2, 64));
    EXPECT_THROW(skew.basis(1, 64), Error);
    const Skew other = open_skew(write({.value = {"1.query.bias", bad}}), spec_, kPrint);
    EXPECT_THROW(other.bias(1), Error);
  }
}

TEST_F(SkewFileTest, ACutFileIsRefusedWhereverItIsCut) {
  const std::string path = write({});
  const auto bytes = std::filesystem::file_size(path);
  for (const double part : {0.0, 0.001, 0.01, 0.3, 0.99, 0.99999}) {
    write({});
    std::filesystem::resize_file(path, static_cast<uintmax_t>(part * static_cast<double>(bytes)));
    EXPECT_THROW(open_skew(path, spec_, kPrint), Error) << part;
  }
}

TEST_F(SkewFileTest, AFingerprintIsOfTheWeightsNotOfTheName) {
  const std::string print = fingerprint(open_for_test(model_).checkpoint);
  EXPECT_EQ(print.size(), 16u);
  const std::string copy = folder_ + "/copy.gguf";
  std::filesystem::copy_file(model_, copy, std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(fingerprint(open_for_test(copy).checkpoint), print);
  const TensorInfo last = open_for_test(model_).spec.layers[2].v;
  std::fstream file(copy, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(last.extent.offset + last.extent.bytes - 1));
  file.put('!');
  file.close();
  EXPECT_NE(fingerprint(open_for_test(copy).checkpoint), print);
  const std::string other = write_tiny_model({.layers = 3, .rope_base = 20000.0f, .name = "turned"}, folder_);
  EXPECT_NE(fingerprint(open_for_test(other).checkpoint), print);
}

}  // namespace
}  // namespace spillway

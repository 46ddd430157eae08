#include "loader/model_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/loader/gguf_bytes.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::DoubleNear;
using testing::HasSubstr;

class ModelSpecTest : public testing::Test {
 protected:
  ModelSpec read(const GgufBytes& file) { return read_model_spec(open_gguf(folder_.write("model.gguf", file.file()))); }

  // What is said of the smallest model after `change`.
  template <typename Change>
  std::string refused(const Change& change) {
    GgufBytes model = smallest_llama();
    change(model);
    const std::string path = folder_.write("model.gguf", model.file());
    try {
      read_model_spec(open_gguf(path));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), HasSubstr(path));
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }
  std::string refused_with(const std::string& key, uint32_t value) {
    return refused([&](GgufBytes& model) { model.u32("llama." + key, value); });
  }

  TemporaryFolder folder_;
};

TEST_F(ModelSpecTest, SmallestModel) {
  const ModelSpec spec = read(smallest_llama());
  EXPECT_EQ(spec.family, "llama");
  EXPECT_EQ(spec.name, "model");  // the file's, where general.name is missing
  EXPECT_EQ(spec.shape.layers, 1);
  EXPECT_EQ(spec.shape.hidden, 16);
  EXPECT_EQ(spec.shape.heads, 2);
  EXPECT_EQ(spec.shape.kv_heads, 1);
  EXPECT_EQ(spec.shape.head_dim, 8);
  EXPECT_EQ(spec.shape.rope_dims, 8);
  EXPECT_THAT(spec.ropes.at(0).frequencies,
              testing::ElementsAre(1.0, DoubleNear(0.1, 1e-15), DoubleNear(0.01, 1e-16), DoubleNear(0.001, 1e-17)));
  EXPECT_EQ(spec.shape.norm_eps, 1e-5f);
  EXPECT_EQ(spec.shape.vocab, 8);
  EXPECT_EQ(spec.shape.context, 64);
  EXPECT_EQ(spec.shape.rotation, RotationStyle::adjacent);
  EXPECT_TRUE(spec.tied);
  EXPECT_EQ(spec.output.extent.offset, spec.token_embedding.extent.offset);
}

TEST_F(ModelSpecTest, ShapesOfTheTinyModels) {
  for (const TinyModelOptions& options : golden_models()) {
    const ModelSpec spec = read_model_spec(open_gguf(write_tiny_model(options, folder_.path())));
    EXPECT_EQ(spec.name, options.name);
    EXPECT_EQ(spec.shape.layers, options.layers);
    EXPECT_EQ(spec.shape.hidden, options.hidden);
    EXPECT_EQ(spec.shape.heads, options.heads);
    EXPECT_EQ(spec.shape.kv_heads, options.kv_heads);
    EXPECT_EQ(spec.shape.head_dim, options.head_dim);
    EXPECT_EQ(spec.shape.ffn, options.ffn);
    EXPECT_EQ(spec.shape.vocab, options.vocab);
    EXPECT_EQ(spec.shape.context, options.context);
    EXPECT_EQ(spec.shape.norm_eps, options.norm_eps);
    EXPECT_EQ(spec.tied, options.tied);
    const std::vector<double>& frequencies = spec.ropes.at(0).frequencies;
    ASSERT_EQ(frequencies.size(), static_cast<size_t>(options.head_dim / 2));
    for (int i = 0; i < options.head_dim / 2; ++i) {
      const double plain = std::pow(options.rope_base, -2.0 * i / options.head_dim);
      EXPECT_LE(frequencies[i], plain * (1 + 1e-7));
      EXPECT_GE(frequencies[i], plain / (options.rope_factors ? 8 : 1) * (1 - 1e-7));
    }
    ASSERT_EQ(spec.layers.size(), static_cast<size_t>(options.layers));
    for (int layer = 0; layer < options.layers; ++layer) {
      EXPECT_EQ(spec.layers[layer].down.name, "blk." + std::to_string(layer) + ".ffn_down.weight");
      EXPECT_EQ(spec.layers[layer].down.rows, options.hidden);
      EXPECT_EQ(spec.layers[layer].down.cols, options.ffn);
      EXPECT_EQ(spec.layers[layer].q.dtype, options.type);
    }
  }
}

TEST_F(ModelSpecTest, UnknownFamily) {
  EXPECT_THAT(
      refused([](GgufBytes& model) { model.text("general.architecture", "mamba"); }),
      AllOf(HasSubstr("\"mamba\""), HasSubstr("known families: gemma3, llama, opt, phi3, qwen2, qwen3, qwen3moe")));
  EXPECT_THAT(refused([](GgufBytes& model) { model.erase("general.architecture"); }), HasSubstr("is missing"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.u32("general.architecture", 1); }), HasSubstr("a text is expected"));
}

TEST_F(ModelSpecTest, ValuesOutOfRange) {
  EXPECT_THAT(refused_with("block_count", 0), HasSubstr("llama.block_count is 0"));
  EXPECT_THAT(refused_with("block_count", 1025), HasSubstr("llama.block_count is 1025"));
  EXPECT_THAT(refused_with("block_count", 2), HasSubstr("blk.1.attn_norm.weight is missing"));
  EXPECT_THAT(refused_with("embedding_length", 1 << 20), HasSubstr("embedding_length"));
  EXPECT_THAT(refused_with("embedding_length", 0), HasSubstr("embedding_length"));
  EXPECT_THAT(refused_with("feed_forward_length", 0), HasSubstr("feed_forward_length"));
  EXPECT_THAT(refused_with("attention.head_count", 0), HasSubstr("head_count"));
  EXPECT_THAT(refused_with("attention.head_count", 0xffffffff), HasSubstr("head_count"));
  EXPECT_THAT(refused_with("attention.head_count_kv", 0), HasSubstr("head_count_kv"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.i32s("llama.attention.head_count", {2}); }), HasSubstr("an array"));
  EXPECT_THAT(refused_with("context_length", 0), HasSubstr("context_length"));
  EXPECT_THAT(refused_with("rope.dimension_count", 10), HasSubstr("rope.dimension_count"));
  EXPECT_THAT(refused_with("rope.dimension_count", 3), HasSubstr("odd"));
  for (const float value : {0.0f, -1.0f, 1.5f, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_THAT(refused([&](GgufBytes& model) { model.f32("llama.attention.layer_norm_rms_epsilon", value); }),
                HasSubstr("epsilon"));
  }
  for (const float value : {0.0f, -1.0f, 1e13f, std::numeric_limits<float>::infinity()}) {
    EXPECT_THAT(refused([&](GgufBytes& model) { model.f32("llama.rope.freq_base", value); }), HasSubstr("freq_base"));
  }
}

TEST_F(ModelSpecTest, Heads) {
  EXPECT_THAT(refused_with("attention.head_count_kv", 3), HasSubstr("evenly"));
  EXPECT_THAT(refused_with("attention.key_length", 12), HasSubstr("must agree"));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.u32("llama.attention.key_length", 12);
                model.u32("llama.attention.value_length", 12);
              }),
              AllOf(HasSubstr("12 elements"), HasSubstr("multiples of 8 up to 256")));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.u32("llama.attention.key_length", 264);
                model.u32("llama.attention.value_length", 264);
              }),
              HasSubstr("264 elements"));
}

TEST_F(ModelSpecTest, VariantsThatAreNotComputed) {
  EXPECT_THAT(refused_with("expert_count", 8), HasSubstr("expert_used_count is missing"));
  const auto scaled = [](const char* type, float factor) {
    return [=](GgufBytes& model) {
      model.text("llama.rope.scaling.type", type);
      model.f32("llama.rope.scaling.factor", factor);
    };
  };
  EXPECT_THAT(refused(scaled("dynamic", 1.0f)),
              AllOf(HasSubstr("\"dynamic\""), HasSubstr("known: none, linear, llama3, yarn, longrope")));
  EXPECT_THAT(refused(scaled("linear", 0.0f)), HasSubstr("rope.scaling.factor is 0"));
  EXPECT_THAT(refused(scaled("yarn", 4.0f)), HasSubstr("original_context_length is missing"));
  EXPECT_THAT(refused(scaled("longrope", 4.0f)), HasSubstr("two lists of factors"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.f32("llama.logit_scale", 0.5f); }), HasSubstr("llama.logit_scale"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.flag("llama.attention.causal", false); }), HasSubstr("causal"));
  GgufBytes neutral = smallest_llama();
  scaled("linear", 1.0f)(neutral);
  neutral.u32("llama.expert_count", 0);
  neutral.flag("llama.attention.causal", true);
  EXPECT_EQ(read(neutral).shape.layers, 1);
  scaled("none", 4.0f)(neutral);
  EXPECT_EQ(read(neutral).shape.layers, 1);
}

TEST_F(ModelSpecTest, Tensors) {
  EXPECT_THAT(refused([](GgufBytes& model) { model.erase_tensor("output_norm.weight"); }),
              HasSubstr("output_norm.weight is missing"));
  EXPECT_THAT(
      refused([](GgufBytes& model) {
        model.tensor("blk.0.attn_q.weight").dims = {16, 8};
      }),
      AllOf(HasSubstr("blk.0.attn_q.weight is 8 x 16"), HasSubstr("16 x 16 is expected"), HasSubstr("at byte")));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("blk.0.ffn_down.weight").dims = {16, 8};
              }),
              HasSubstr("blk.0.ffn_down.weight is 8 x 16"));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("blk.0.attn_norm.weight").dims = {32};
                model.tensor("blk.0.attn_norm.weight").type = 8;
              }),
              HasSubstr("blk.0.attn_norm.weight is 1 x 32"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.tensor("blk.0.attn_q.bias").dims = {1}; }),
              HasSubstr("blk.0.attn_q.bias is 1 x 1"));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("blk.0.attn_norm.bias") = {"blk.0.attn_norm.bias", {16}, 0, 64};
              }),
              AllOf(HasSubstr("blk.0.attn_norm.bias"), HasSubstr("is a bias")));
  EXPECT_THAT(refused([](GgufBytes& model) { model.tensor("blk.1.attn_norm.weight").dims = {1}; }),
              HasSubstr("blk.1.attn_norm.weight is no part"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.tensor("output.weight").dims = {1}; }),
              HasSubstr("output.weight is 1 x 1"));
}

TEST_F(ModelSpecTest, Vocabulary) {
  EXPECT_THAT(refused_with("vocab_size", 9), HasSubstr("8 rows"));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("token_embd.weight").dims = {16, 7};
              }),
              AllOf(HasSubstr("8 tokens"), HasSubstr("7 rows")));
  GgufBytes padded = smallest_llama();  // rows beyond the tokens
  padded.tensor("token_embd.weight").dims = {16, 10};
  padded.tensor("token_embd.weight").bytes = 640;
  EXPECT_EQ(read(padded).shape.vocab, 10);
}

TEST_F(ModelSpecTest, RopeFactors) {
  const auto with = [](const std::vector<float>& factors) {
    GgufBytes model = smallest_llama();
    model.tensor("rope_freqs.weight").dims = {factors.size()};
    model.tensor("rope_freqs.weight").bytes = factors.size() * 4;
    std::string file = model.file();  // the tensor added last lies last, padded to 32 bytes
    const size_t padded = (factors.size() * 4 + 31) / 32 * 32;
    file.replace(file.size() - padded, factors.size() * 4, reinterpret_cast<const char*>(factors.data()),
                 factors.size() * 4);
    return file;
  };
  const auto open = [&](const std::vector<float>& factors) {
    return read_model_spec(open_gguf(folder_.write("factors.gguf", with(factors))));
  };
  EXPECT_THAT(
      open({1, 2, 3, 4.5}).ropes.at(0).frequencies,
      testing::ElementsAre(1, DoubleNear(0.1 / 2, 1e-12), DoubleNear(0.01 / 3, 1e-12), DoubleNear(0.001 / 4.5, 1e-12)));
  EXPECT_THROW(open({1, 2, 3}), Error);
  EXPECT_THROW(open({1, 2, 0, 4}), Error);
  EXPECT_THROW(open({1, 2, -3, 4}), Error);
  EXPECT_THROW(open({1, 2, 3, std::numeric_limits<float>::quiet_NaN()}), Error);
}

}  // namespace
}  // namespace spillway

// What tests/support writes, the loader reads: shapes, types, splits, alignment, vocabulary.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "loader/checkpoint.h"
#include "loader/model_spec.h"
#include "loader/tokenizer.h"
#include "tests/support/synthetic_vocab.h"
#include "tests/support/tiny_model.h"

namespace spillway {
namespace {

class ModelFiles : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  Checkpoint open(const TinyModelOptions& options) { return open_gguf(write_tiny_model(options, folder_.string())); }

  const std::filesystem::path folder_ =
      std::filesystem::path(testing::TempDir()) /
      (std::string("spillway-model-files-") + testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(ModelFiles, GoldenModelsHaveTheShapeTheyWereGiven) {
  for (const TinyModelOptions& o : golden_models()) {
    SCOPED_TRACE(o.name);
    const Checkpoint checkpoint = open(o);
    EXPECT_EQ(checkpoint.files.size(), static_cast<size_t>(o.parts));
    const ModelSpec spec = read_model_spec(checkpoint);
    EXPECT_EQ(spec.shape.layers, o.layers);
    EXPECT_EQ(spec.shape.hidden, o.hidden);
    EXPECT_EQ(spec.shape.heads, o.heads);
    EXPECT_EQ(spec.shape.kv_heads, o.kv_heads);
    EXPECT_EQ(spec.shape.head_dim, o.head_dim);
    EXPECT_EQ(spec.shape.ffn, o.ffn);
    EXPECT_EQ(spec.shape.vocab, o.vocab);
    EXPECT_EQ(spec.shape.norm_eps, o.norm_eps);
    EXPECT_EQ(spec.tied, o.tied);
    ASSERT_EQ(spec.ropes.size(), 1u);
    EXPECT_EQ(spec.ropes[0].frequencies.size(), static_cast<size_t>(o.head_dim / 2));
    EXPECT_EQ(spec.layers.at(1).down.dtype, o.type);
    EXPECT_EQ(spec.token_embedding.dtype, o.embedding_type.value_or(o.type));
    for (const auto& [name, tensor] : checkpoint.tensors) EXPECT_EQ(tensor.extent.offset % o.alignment, 0u) << name;
  }
}

TEST_F(ModelFiles, OptHasLearnedPositionsAndBiases) {
  TinyModelOptions o{.kv_heads = 4, .context = 64, .family = "opt", .type = DType::f16, .tied = true, .name = "opt"};
  o.head_dim = o.hidden / o.heads;
  const ModelSpec spec = read_model_spec(open(o));
  EXPECT_EQ(spec.norm, NormKind::layer);
  EXPECT_EQ(spec.activation, Activation::relu);
  EXPECT_EQ(spec.position_embedding.rows, o.context + spec.position_offset);
  EXPECT_EQ(spec.position_offset, 2);
  EXPECT_TRUE(spec.ropes.empty() && spec.tied);
  EXPECT_EQ(spec.output_norm_bias.cols, o.hidden);
  for (const LayerTensors& layer : spec.layers) {
    for (const TensorInfo* bias : {&layer.attn_norm_bias, &layer.q_bias, &layer.k_bias, &layer.v_bias,
                                   &layer.attn_out_bias, &layer.ffn_norm_bias, &layer.gate_bias, &layer.down_bias}) {
      EXPECT_GT(bias->cols, 0);
    }
    EXPECT_EQ(layer.up.cols, 0) << "no gate beside it";
  }
  o.experts = 4;
  EXPECT_THROW(open(o), Error);
}

// Its facts are those of the whole file, and it takes no room.
TEST_F(ModelFiles, AnOutlineIsTheHeaderAndHoles) {
  const TinyModelOptions o{.layers = 40, .type = DType::f16, .name = "outline"};
  const std::string path = (folder_ / "holes.gguf").string();
  const Checkpoint outline = open_gguf(write_model_outline(o, path)), whole = open(o);
  EXPECT_EQ(outline.files.front().bytes(), whole.files.front().bytes());
  EXPECT_EQ(outline.meta, whole.meta);
  ASSERT_EQ(outline.tensors.size(), whole.tensors.size());
  for (const auto& [name, tensor] : whole.tensors) {
    EXPECT_EQ(outline.require(name).extent.offset, tensor.extent.offset) << name;
    EXPECT_EQ(outline.require(name).extent.bytes, tensor.extent.bytes) << name;
  }
  EXPECT_THROW(write_model_outline(o, (folder_ / "missing" / "holes.gguf").string()), Error);
}

TEST_F(ModelFiles, SplittingChangesNoByteOfATensor) {
  const TinyModelOptions whole{.layers = 2, .type = DType::q8_0, .gguf_version = 2, .name = "whole"};
  TinyModelOptions split = whole;
  split.name = "split";
  split.parts = 4;
  const Checkpoint one = open(whole), four = open(split);
  ASSERT_EQ(one.tensors.size(), four.tensors.size());
  for (const auto& [name, tensor] : one.tensors) {
    const TensorInfo& other = four.require(name);
    ASSERT_EQ(tensor.extent.bytes, other.extent.bytes);
    std::vector<std::byte> left(tensor.extent.bytes), right(tensor.extent.bytes);
    one.files[tensor.extent.file].read(tensor.extent.offset, left);
    four.files[other.extent.file].read(other.extent.offset, right);
    EXPECT_EQ(left, right) << name;
  }
}

// Every token's text becomes tokens of the same text, and most become themselves again.
TEST_F(ModelFiles, TheVocabularyIsOneThatTextsUse) {
  const int size = 2000;
  const auto tokenizer = make_tokenizer(open({.layers = 1, .vocab = size}));
  ASSERT_EQ(tokenizer->vocab(), size);
  int reached = 0;
  for (int32_t id = 3; id < size; ++id) {
    const std::string text(tokenizer->piece(id));
    const std::vector<int32_t> ids = tokenizer->encode(text, false, false);
    EXPECT_EQ(tokenizer->decode(ids), text) << id;
    reached += ids == std::vector<int32_t>{id};
  }
  // A run of letters may be cut otherwise by merges of better rank, as in every BPE vocabulary; bytes above 0x7f are no
  // text.
  EXPECT_GT(reached, 1000);
  EXPECT_EQ(tokenizer->bos(), SyntheticVocab::kBos);
  EXPECT_TRUE(tokenizer->is_end(SyntheticVocab::kEos));
}

TEST_F(ModelFiles, WhatCannotBeWrittenIsRefused) {
  EXPECT_THROW(open({.hidden = 100, .type = DType::q4_0}), Error);       // rows of 100 are no whole blocks
  EXPECT_THROW(open({.heads = 4, .kv_heads = 3}), Error);                // groups of 4/3 heads
  EXPECT_THROW(open({.vocab = SyntheticVocab::kSmallest - 1}), Error);   // not all bytes
  EXPECT_THROW(open({.output_type = DType::f16, .tied = true}), Error);  // an output matrix it has not
  EXPECT_THROW(open({.parts = 1000}), Error);                            // more parts than tensors
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

}  // namespace
}  // namespace spillway

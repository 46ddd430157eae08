// A mixture of experts: what the keys and the tensors of a file mean, and values that no model has.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "loader/hf_names.h"
#include "loader/model_spec.h"
#include "tests/loader/gguf_bytes.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// The smallest model with three experts of width 8, two of them for a token; each tensor as a GGUF of today has it.
GgufBytes smallest_experts(const std::string& family = "llama") {
  GgufBytes model = smallest_llama();
  for (const char* part : {"gate", "up", "down"}) model.erase_tensor(fmt::format("blk.0.ffn_{}.weight", part));
  const auto add = [&](const std::string& name, std::vector<uint64_t> dims, uint64_t bytes) {
    model.tensors.push_back({name, std::move(dims), 0, bytes, {}});
  };
  add("blk.0.ffn_gate_inp.weight", {16, 3}, 192);
  add("blk.0.ffn_gate_exps.weight", {16, 8, 3}, 1536);
  add("blk.0.ffn_up_exps.weight", {16, 8, 3}, 1536);
  add("blk.0.ffn_down_exps.weight", {8, 16, 3}, 1536);
  model.u32("llama.expert_count", 3);
  model.u32("llama.expert_used_count", 2);
  if (family == "llama") return model;
  add("blk.0.attn_q_norm.weight", {8}, 32);
  add("blk.0.attn_k_norm.weight", {8}, 32);
  model.text("general.architecture", family);
  for (const char* key : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                          "attention.head_count", "attention.head_count_kv", "expert_count", "expert_used_count"}) {
    static const std::map<std::string, uint32_t> values = {{"block_count", 1},          {"context_length", 64},
                                                           {"embedding_length", 16},    {"feed_forward_length", 16},
                                                           {"attention.head_count", 2}, {"attention.head_count_kv", 1},
                                                           {"expert_count", 3},         {"expert_used_count", 2}};
    model.u32(family + "." + key, values.at(key));
  }
  model.f32(family + ".attention.layer_norm_rms_epsilon", 1e-6f);
  return model;
}

class ExpertSpecTest : public testing::Test {
 protected:
  ModelSpec read(const GgufBytes& file) { return read_model_spec(open_gguf(folder_.write("model.gguf", file.file()))); }
  template <typename Change>
  std::string refused(const Change& change, const std::string& family = "llama") {
    GgufBytes model = smallest_experts(family);
    change(model);
    try {
      read(model);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }
  std::string refused_with(const std::string& key, uint32_t value, const std::string& family = "llama") {
    return refused([&](GgufBytes& model) { model.u32(family + "." + key, value); }, family);
  }

  TemporaryFolder folder_;
};

TEST_F(ExpertSpecTest, EachExpertIsAnExtent) {
  for (const std::string family : {"llama", "qwen3moe"}) {
    const ModelSpec spec = read(smallest_experts(family));
    EXPECT_EQ(spec.shape.experts, 3);
    EXPECT_EQ(spec.shape.experts_used, 2);
    EXPECT_EQ(spec.shape.expert_ffn, 8);  // of qwen3moe: 16 among two
    EXPECT_TRUE(spec.expert_weights_norm);
    const LayerTensors& layer = spec.layers.at(0);
    EXPECT_TRUE(layer.has_experts());
    EXPECT_EQ(layer.gate.cols, 0);
    EXPECT_EQ(layer.router.rows, 3);
    ASSERT_EQ(layer.expert_down.extents.size(), 3u);
    EXPECT_EQ(layer.expert_down.rows, 16);
    EXPECT_EQ(layer.expert_down.cols, 8);
    EXPECT_EQ(layer.expert_gate.rows, 8);
    for (int e = 0; e < 3; ++e) {
      EXPECT_EQ(layer.expert_up.extents[e].bytes, 512u);
      EXPECT_EQ(layer.expert_up.extents[e].offset, layer.expert_up.extents[0].offset + 512u * e);
    }
  }
}

TEST_F(ExpertSpecTest, ATensorToEachExpert) {
  GgufBytes model = smallest_experts();
  for (const char* part : {"gate", "up", "down"}) {
    model.erase_tensor(fmt::format("blk.0.ffn_{}_exps.weight", part));
    const bool down = std::string(part) == "down";
    for (int e : {2, 0, 1}) {
      model.tensors.push_back(
          {fmt::format("blk.0.ffn_{}.{}.weight", part, e), {down ? 8u : 16u, down ? 16u : 8u}, 0, 512, {}});
    }
  }
  const LayerTensors layer = read(model).layers.at(0);
  EXPECT_LT(layer.expert_gate.extents[2].offset, layer.expert_gate.extents[0].offset);
  const auto refuse = [&](const auto& change) {
    GgufBytes changed = model;
    change(changed);
    try {
      read(changed);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  EXPECT_THAT(refuse([](GgufBytes& m) { m.erase_tensor("blk.0.ffn_up.1.weight"); }),
              HasSubstr("blk.0.ffn_up.1.weight is missing"));
  EXPECT_THAT(refuse([](GgufBytes& m) { m.tensor("blk.0.ffn_up.3.weight").dims = {1}; }),
              HasSubstr("blk.0.ffn_up.3.weight is no part"));
  EXPECT_THAT(refuse([](GgufBytes& m) {
                m.tensor("blk.0.ffn_up.1.weight").type = 1;
                m.tensor("blk.0.ffn_up.1.weight").bytes = 256;
              }),
              AllOf(HasSubstr("blk.0.ffn_up"),
                    HasSubstr("several types: blk.0.ffn_up.0.weight is F32, blk.0.ffn_up.1.weight is F16")));
}

TEST_F(ExpertSpecTest, CountsThatNoModelHas) {
  EXPECT_THAT(refused_with("expert_used_count", 4), HasSubstr("llama.expert_used_count is 4; 1 to 3 are possible"));
  EXPECT_THAT(refused_with("expert_used_count", 0), HasSubstr("llama.expert_used_count is 0"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.erase("llama.expert_used_count"); }),
              HasSubstr("llama.expert_used_count is missing"));
  EXPECT_THAT(refused_with("expert_count", 1 << 20),
              HasSubstr("llama.expert_count is 1048576; 0 to 1024 are possible"));
  EXPECT_THAT(refused_with("expert_count", UINT32_MAX), HasSubstr("llama.expert_count"));
  EXPECT_THAT(refused_with("expert_count", 4),
              AllOf(HasSubstr("blk.0.ffn_gate_inp.weight is 3 x 16"), HasSubstr("4 x 16 is expected")));
  EXPECT_THAT(refused_with("expert_count", 0), HasSubstr("blk.0.ffn_gate.weight is missing"));
  EXPECT_THAT(refused_with("expert_count", 0, "qwen3moe"), HasSubstr("qwen3moe.expert_count is 0; 1 to 1024"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.erase("qwen3moe.expert_count"); }, "qwen3moe"),
              HasSubstr("qwen3moe.expert_count is missing"));
  EXPECT_THAT(refused_with("expert_feed_forward_length", 0), HasSubstr("expert_feed_forward_length is 0"));
  EXPECT_THAT(
      refused_with("expert_feed_forward_length", 12),
      AllOf(HasSubstr("blk.0.ffn_gate_exps.weight is 3 times 8 x 16"), HasSubstr("3 times 12 x 16 is expected")));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("blk.0.ffn_down_exps.weight").dims = {8, 48};
              }),
              HasSubstr("blk.0.ffn_down_exps.weight is 48 x 8 (rows x columns), but 3 times 16 x 8"));
}

TEST_F(ExpertSpecTest, RoutersThatAreNotComputed) {
  EXPECT_THAT(refused_with("expert_gating_func", 2), HasSubstr("llama.expert_gating_func is no softmax"));
  EXPECT_THAT(refused_with("expert_shared_count", 1), HasSubstr("llama.expert_shared_count is 1"));
  EXPECT_THAT(refused([](GgufBytes& model) { model.f32("llama.expert_weights_scale", 2.5f); }),
              HasSubstr("llama.expert_weights_scale is 2.5"));
  EXPECT_THAT(refused([](GgufBytes& model) {
                model.tensor("blk.0.exp_probs_b.bias") = {"blk.0.exp_probs_b.bias", {3}, 0, 12};
              }),
              HasSubstr("blk.0.exp_probs_b.bias is a bias"));
  GgufBytes neutral = smallest_experts();
  neutral.u32("llama.expert_gating_func", 1);
  neutral.f32("llama.expert_weights_scale", 1.0f);
  neutral.flag("llama.expert_weights_norm", false);
  EXPECT_FALSE(read(neutral).expert_weights_norm);
  GgufBytes dense = smallest_llama();  // of a family that has none
  dense.text("general.architecture", "qwen2");
  for (const char* key : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                          "attention.head_count", "attention.head_count_kv"}) {
    dense.u32(std::string("qwen2.") + key, 8);
  }
  dense.u32("qwen2.expert_count", 3);
  try {
    read(dense);
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("a mixture of experts (qwen2.expert_count is 3)"));
  }
}

TEST(ExpertNames, OfHuggingFace) {
  const auto name = [](const char* hf) { return gguf_name_of_hf(hf, "qwen3moe").value_or(""); };
  EXPECT_EQ(name("model.layers.3.mlp.experts.12.gate_proj.weight"), "blk.3.ffn_gate.12.weight");
  EXPECT_EQ(name("model.layers.3.mlp.experts.12.down_proj.weight"), "blk.3.ffn_down.12.weight");
  EXPECT_EQ(name("model.layers.0.block_sparse_moe.experts.0.w1.weight"), "blk.0.ffn_gate.0.weight");
  EXPECT_EQ(name("model.layers.0.block_sparse_moe.experts.0.w2.weight"), "blk.0.ffn_down.0.weight");
  EXPECT_EQ(name("model.layers.0.block_sparse_moe.experts.0.w3.weight"), "blk.0.ffn_up.0.weight");
  EXPECT_EQ(name("model.layers.0.block_sparse_moe.gate.weight"), "blk.0.ffn_gate_inp.weight");
  EXPECT_EQ(name("model.layers.0.mlp.gate.weight"), "blk.0.ffn_gate_inp.weight");
  EXPECT_EQ(name("model.layers.0.mlp.experts.0.other.weight"), "model.layers.0.mlp.experts.0.other.weight");
}

}  // namespace
}  // namespace spillway

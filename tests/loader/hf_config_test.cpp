// config.json against what transformers makes of the same files (tests/oracle/make_config_golden.py).
#include "loader/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "loader/hf_names.h"

namespace spillway {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// The facts of one file, without the family before their keys.
class Facts {
 public:
  explicit Facts(const json& config) : read_(read_hf_config(config, "config.json")) {
    family_ = std::get<std::string>(read_.meta.at("general.architecture"));
  }

  bool has(const std::string& key) const { return read_.meta.contains(family_ + "." + key); }
  double number(const std::string& key) const {
    const MetaValue& value = read_.meta.at(family_ + "." + key);
    if (const auto* flag = std::get_if<bool>(&value)) return *flag;
    const auto* integer = std::get_if<int64_t>(&value);
    return integer != nullptr ? static_cast<double>(*integer) : std::get<double>(value);
  }
  std::string text(const std::string& key) const { return std::get<std::string>(read_.meta.at(family_ + "." + key)); }
  bool tied() const { return std::get<bool>(read_.meta.at("general.tied")); }

  // Of the first layer, as the files call its parts.
  std::vector<std::string> biases() const {
    std::vector<std::string> found;
    for (const HfBias& bias : read_.biases) {
      const std::string name = hf_name_of_gguf("blk.0." + bias.part + ".bias", family_), layer = ".layers.0.";
      const size_t begin = name.find(layer) + layer.size();
      found.push_back(name.substr(begin, name.rfind('.') - begin));
    }
    return found;
  }

  // As the model's specification reads them, layer by layer.
  std::vector<int64_t> windows(int64_t layers) const {
    const char *size = "attention.sliding_window", *pattern = "attention.sliding_window_pattern";
    std::vector<int64_t> found;
    for (int64_t layer = 0; layer < layers; ++layer) {
      bool slides = has(size);
      if (slides && has(pattern)) {
        const MetaValue& value = read_.meta.at(family_ + "." + pattern);
        const auto* list = std::get_if<MetaArray>(&value);
        slides = list != nullptr ? std::get<std::vector<int64_t>>(*list).at(layer) != 0
                                 : (layer + 1) % std::get<int64_t>(value) != 0;
      } else if (slides && family_ == "gemma3") {
        slides = (layer + 1) % 6 != 0;
      }
      found.push_back(slides ? static_cast<int64_t>(number(size)) : 0);
    }
    return found;
  }

 private:
  HfConfig read_;
  std::string family_;
};

void expect_same(const Facts& facts, const json& golden) {
  EXPECT_EQ(facts.windows(golden["layers"]), golden["windows"].get<std::vector<int64_t>>());
  EXPECT_EQ(facts.tied(), golden["tied"].get<bool>());
  const double heads = facts.number("attention.head_count"), hidden = facts.number("embedding_length");
  EXPECT_EQ(facts.has("attention.key_length") ? facts.number("attention.key_length") : std::floor(hidden / heads),
            golden["head_dim"].get<double>());
  EXPECT_EQ(facts.has("attention.head_count_kv") ? facts.number("attention.head_count_kv") : heads,
            golden["kv_heads"].get<double>());
  EXPECT_THAT(facts.biases(), testing::UnorderedElementsAreArray(golden["biases"].get<std::vector<std::string>>()));
  if (golden.contains("rotated")) {
    const bool part = facts.has("rope.dimension_count");
    EXPECT_EQ(part ? facts.number("rope.dimension_count") : golden["head_dim"].get<double>(),
              golden["rotated"].get<double>());
  }
  const std::pair<const char*, const char*> numbers[] = {{"layers", "block_count"},
                                                         {"hidden", "embedding_length"},
                                                         {"ffn", "feed_forward_length"},
                                                         {"heads", "attention.head_count"},
                                                         {"context", "context_length"},
                                                         {"eps", "attention.layer_norm_rms_epsilon"},
                                                         {"theta", "rope.freq_base"},
                                                         {"local_theta", "rope.freq_base_swa"},
                                                         {"factor", "rope.scaling.factor"},
                                                         {"original", "rope.scaling.original_context_length"},
                                                         {"experts", "expert_count"},
                                                         {"experts_used", "expert_used_count"},
                                                         {"expert_ffn", "expert_feed_forward_length"},
                                                         {"norm_topk", "expert_weights_norm"}};
  for (const auto& [name, key] : numbers) {
    if (!golden.contains(name)) continue;
    const double wanted = golden[name].is_boolean() ? golden[name].get<bool>() : golden[name].get<double>();
    EXPECT_EQ(facts.number(key), wanted) << name;
  }
  if (golden.contains("rope_type")) {
    const std::string type = golden["rope_type"];
    EXPECT_EQ(facts.text("rope.scaling.type"), type == "default" ? "none" : type);
  }
  if (golden.contains("query_scalar")) {
    EXPECT_DOUBLE_EQ(facts.number("attention.scale"), 1 / std::sqrt(golden["query_scalar"].get<double>()));
  }
}

TEST(HfConfigTest, WhatAFileLeavesOutIsWhatItIsToTransformers) {
  const json golden = json::parse(std::ifstream(SPILLWAY_TEST_DATA "/hf_configs.json"));
  ASSERT_GE(golden.size(), 50u);
  for (const auto& [name, one] : golden.items()) {
    SCOPED_TRACE(name);
    expect_same(Facts(one["config"]), one["facts"]);
  }
}

json config_of(const std::string& type, const json& more = json::object()) {
  json config{{"model_type", type}, {"num_hidden_layers", 2}, {"hidden_size", 64}, {"intermediate_size", 96}};
  if (type == "opt") config["ffn_dim"] = 96;
  config.update(more);
  return config;
}

std::string refused(const json& config) {
  try {
    read_hf_config(config, "/models/x/config.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    EXPECT_THAT(error.what(), testing::StartsWith("/models/x/config.json: "));
    return error.what();
  }
  ADD_FAILURE() << "not refused: " << config;
  return "";
}

TEST(HfConfigTest, FaultsAreNamedByTheFilesOwnKeys) {
  EXPECT_THAT(refused(json::object()), AllOf(HasSubstr("model_type is missing"), HasSubstr("gemma3_text, llama")));
  EXPECT_THAT(refused({{"model_type", "mamba"}}),
              AllOf(HasSubstr("\"mamba\""), HasSubstr("known: gemma3_text, llama")));
  for (const char* key : {"hidden_size", "num_hidden_layers", "intermediate_size"}) {
    json config = config_of("llama");
    config.erase(key);
    EXPECT_THAT(refused(config), HasSubstr(std::string(key) + " is missing"));
  }
  EXPECT_THAT(refused(config_of("opt", {{"word_embed_proj_dim", 32}})),
              AllOf(HasSubstr("word_embed_proj_dim is 32"), HasSubstr("hidden_size is 64")));
  const json inner{{"model_type", "gemma3_text"}, {"head_dim", "x"}};
  EXPECT_THAT(refused({{"model_type", "gemma3"}, {"text_config", inner}}),
              HasSubstr("config.json: text_config: head_dim is no whole number"));
}

// Where transformers would compute something else than is computed here, or the file says what it ignores.
TEST(HfConfigTest, WhatIsNotComputedIsRefused) {
  EXPECT_THAT(refused(config_of("llama", {{"rope_parameters", {{"full_attention", {{"rope_theta", 1e6}}}}}})),
              HasSubstr("rope_parameters has an object for each kind of layer"));
  EXPECT_THAT(refused(config_of("gemma3_text", {{"rope_parameters", {{"rope_theta", 1e6}}}})),
              HasSubstr("rope_parameters has no object for full_attention"));
  EXPECT_THAT(
      refused(config_of("gemma3_text", {{"rope_parameters", {{"sliding_attention", {{"rope_type", "yarn"}}}}}})),
      HasSubstr("rope_parameters.sliding_attention.rope_type is \"yarn\""));
  EXPECT_THAT(refused(config_of("gemma3_text", {{"sliding_window", nullptr}})), HasSubstr("sliding_window is null"));
  EXPECT_THAT(refused(config_of("mistral", {{"layer_types", {"sliding_attention", "full_attention"}}})),
              HasSubstr("in a mistral all layers have the window"));
  EXPECT_THAT(
      refused(config_of("llama", {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}, {"truncate", false}}}})),
      HasSubstr("rope_scaling.truncate is false"));
  EXPECT_THAT(refused(config_of("llama", {{"rope_scaling", 3}})), HasSubstr("rope_scaling is no object"));
  EXPECT_THAT(refused(config_of("llama", {{"attention_bias", 1}})), HasSubstr("attention_bias is neither true nor"));
  // transformers has angles for a part of each head then, and fails.
  const json linear{{"rope_type", "linear"}, {"factor", 2.0}}, key{{"partial_rotary_factor", 0.5}};
  json inside = linear;
  inside.update(key);
  for (const char* type : {"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"}) {
    json beside{{"rope_scaling", linear}};
    beside.update(key);
    for (const json& more : {json{{"rope_scaling", inside}}, beside}) {
      EXPECT_THAT(refused(config_of(type, more)),
                  HasSubstr(std::string("partial_rotary_factor is 0.5 where rope_scaling.rope_type is \"linear\"; a ") +
                            type + " rotates whole heads"));
    }
  }
  EXPECT_THAT(refused(config_of("gemma3_text", {{"rope_parameters", {{"full_attention", inside}}}})),
              HasSubstr("partial_rotary_factor is 0.5 where rope_parameters.full_attention.rope_type is \"linear\""));
  EXPECT_THAT(refused(config_of("phi3", {{"partial_rotary_factor", 1.5}})), HasSubstr("between 0 and 1"));
}

// What LongRoPE's magnitude follows from: the stretch that a file says, else that of its contexts.
TEST(HfConfigTest, AFactorOfLongRope) {
  const json rope{{"type", "su"}, {"factor", 32.0}, {"short_factor", {1.0}}, {"long_factor", {1.0}}};
  const Facts facts(config_of("phi3", {{"rope_scaling", rope}}));
  EXPECT_EQ(facts.text("rope.scaling.type"), "longrope");
  EXPECT_DOUBLE_EQ(facts.number("rope.scaling.attn_factor"), std::sqrt(1 + std::log(32.0) / std::log(4096.0)));
}

}  // namespace
}  // namespace spillway

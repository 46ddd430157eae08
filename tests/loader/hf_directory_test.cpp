// Hugging Face directories as they should not be: faults named as the user has them, JSON made to be read without an
// end.
#include "loader/hf_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "loader/hf_names.h"
#include "loader/model_spec.h"
#include "loader/tokenizer.h"
#include "tests/loader/gguf_bytes.h"
#include "tests/support/far_token.h"

namespace spillway {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kModels = SPILLWAY_TEST_DATA "/../../runtime/data/hf";

std::string nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

class HfDirectory : public testing::Test {
 protected:
  std::string refused() {
    try {
      read_model_spec(open_model(folder_.path()));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      return error.what();
    }
    ADD_FAILURE() << "not refused";
    return "";
  }

  // A sound directory of a family, and its config.json.
  json take(const std::string& name) {
    for (const auto& file : fs::directory_iterator(kModels / name)) {
      fs::copy(file, fs::path(folder_.path()) / file.path().filename(), fs::copy_options::overwrite_existing);
    }
    return json::parse(std::ifstream(kModels / name / "config.json"));
  }
  std::string refused_with(const json& config) {
    folder_.write("config.json", config.dump());
    return refused();
  }

  // Writes the weights of a model of one file again, with zeros behind them; `change` is given the header, and where in
  // the data the zeros begin.
  void write_weights(const std::string& name, const std::function<void(json&, size_t)>& change,
                     size_t zeros = 1 << 12) {
    std::ifstream file(kModels / name / "model.safetensors", std::ios::binary);
    const std::string bytes(std::istreambuf_iterator<char>(file), {});
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof length);
    json header = json::parse(bytes.substr(sizeof length, length));
    const std::string data = bytes.substr(sizeof length + length);
    change(header, data.size());
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    length = text.size();
    folder_.write("model.safetensors", std::string(reinterpret_cast<const char*>(&length), sizeof length) + text +
                                           data + std::string(zeros, '\0'));
  }
  static json zeros_at(size_t at, size_t count) {
    return {{"dtype", "F32"}, {"shape", {count}}, {"data_offsets", {at, at + 4 * count}}};
  }
  static std::string integers_of(const json& tensor) { return tensor["dtype"] == "F32" ? "I32" : "I16"; }

  TemporaryFolder folder_;
};

TEST_F(HfDirectory, FaultsAreNamedAsTheUserHasThem) {
  const json sound = take("llama");
  const auto with = [&](const char* key, const json& value) {
    json config = sound;
    config[key] = value;
    return refused_with(config);
  };
  const auto in_config = [](const char* what) {
    return AllOf(HasSubstr("config.json: "), HasSubstr(what), Not(HasSubstr("llama.")), Not(HasSubstr("safetensors:")));
  };
  EXPECT_THAT(with("num_hidden_layers", 0), in_config("num_hidden_layers is 0; 1 to 1024"));
  EXPECT_THAT(with("hidden_size", 0), in_config("hidden_size is 0"));
  EXPECT_THAT(with("num_attention_heads", 9999), in_config("num_attention_heads is 9999"));
  EXPECT_THAT(with("num_key_value_heads", -1), in_config("num_key_value_heads is -1"));
  EXPECT_THAT(with("rms_norm_eps", 0), in_config("rms_norm_eps is 0"));
  EXPECT_THAT(with("head_dim", 12), in_config("heads have 12 elements"));
  EXPECT_THAT(with("max_position_embeddings", 0), in_config("max_position_embeddings is 0"));
  EXPECT_THAT(with("vocab_size", 321), in_config("vocab_size differs from the 320 rows of model.embed_tokens.weight"));
  EXPECT_THAT(with("rope_parameters", {{"rope_type", "dynamic"}}), in_config("rope_parameters.rope_type"));
  EXPECT_THAT(with("rope_parameters", {{"rope_type", "linear"}, {"factor", 0}}),
              in_config("rope_parameters.factor is 0"));
  EXPECT_THAT(with("rope_parameters", {{"rope_type", "yarn"}}), in_config("the key rope_parameters.factor is missing"));
  json uneven = sound;
  uneven.erase("head_dim");
  uneven["num_attention_heads"] = 6;
  EXPECT_THAT(refused_with(uneven), in_config("hidden_size is 40, which 6 heads (num_attention_heads) cannot share"));
  EXPECT_THAT(
      with("num_hidden_layers", 4),
      AllOf(HasSubstr(folder_.path() + ": "), HasSubstr("tensor model.layers.3.input_layernorm.weight is missing")));
  EXPECT_THAT(with("intermediate_size", 57), HasSubstr("the tensor model.layers.0.mlp.gate_proj.weight is 56 x 40"));
  json gemma = take("gemma3");
  gemma["rope_parameters"]["full_attention"] = {{"rope_type", "linear"}, {"factor", -1}};
  EXPECT_THAT(refused_with(gemma), in_config("rope_parameters.full_attention.factor is -1"));
  json without = sound;
  without.erase("model_type");
  EXPECT_THAT(refused_with(without), in_config("model_type is missing"));
}

// Every tensor of every family: the name that it has in the file is the one that a message would give it.
TEST_F(HfDirectory, NamesOfTensorsGoBothWays) {
  int names = 0;
  for (const auto& model : fs::directory_iterator(kModels)) {
    if (!fs::exists(model.path() / "model.safetensors")) continue;
    const Checkpoint checkpoint = open_model(model.path());
    for (const auto& [name, tensor] : checkpoint.tensors) {
      EXPECT_EQ(hf_name_of_gguf(name, checkpoint.text("general.architecture")), tensor.name) << model.path();
      ++names;
    }
  }
  EXPECT_GT(names, 200);
  EXPECT_EQ(hf_name_of_gguf("blk.1.ffn_down_exps.weight", "qwen3moe"), "model.layers.1.mlp.experts.0.down_proj.weight");
  EXPECT_EQ(hf_name_of_gguf("rope_freqs.weight", "llama"), "rope_freqs.weight");
}

TEST_F(HfDirectory, ShardsWithoutTheirIndex) {
  take("mistral");
  const Checkpoint indexed = open_model(folder_.path());
  fs::remove(fs::path(folder_.path()) / "model.safetensors.index.json");
  const Checkpoint found = open_model(folder_.path());
  EXPECT_EQ(found.files.size(), 2u);
  ASSERT_EQ(found.tensors.size(), indexed.tensors.size());
  for (const auto& [name, tensor] : indexed.tensors) {
    EXPECT_EQ(found.require(name).extent.file, tensor.extent.file) << name;
    EXPECT_EQ(found.require(name).extent.offset, tensor.extent.offset) << name;
  }
  fs::remove(fs::path(folder_.path()) / "model-00001-of-00002.safetensors");
  EXPECT_THAT(refused(), HasSubstr("model-00001-of-00002.safetensors is missing, one of 2 files"));
}

// As Gemma 3's from 4B on: the part of text inside, the part of images beside it.
TEST_F(HfDirectory, AModelOfTextAndImages) {
  const json inner = take("gemma3");
  const Checkpoint alone = open_model(folder_.path());
  folder_.write("config.json", json{{"model_type", "gemma3"}, {"text_config", inner}}.dump());
  write_weights("gemma3", [](json& header, size_t end) {
    const json own = std::exchange(header, json::object());
    for (const auto& [name, tensor] : own.items()) {
      header[name.starts_with("model.") ? "language_model." + name : name] = tensor;
    }
    header["vision_tower.vision_model.embeddings.patch_embedding.bias"] = zeros_at(end, 1);
    header["multi_modal_projector.mm_input_projection_weight"] = zeros_at(end + 4, 1);
  });
  const Checkpoint whole = open_model(folder_.path());
  EXPECT_EQ(read_model_spec(whole).layers.size(), read_model_spec(alone).layers.size());
  ASSERT_EQ(whole.tensors.size(), alone.tensors.size());
  EXPECT_EQ(whole.require("blk.0.attn_q.weight").name, "language_model.model.layers.0.self_attn.q_proj.weight");
}

TEST_F(HfDirectory, WeightsThatAreNotThere) {
  take("llama");
  const fs::path weights = fs::path(folder_.path()) / "model.safetensors";
  fs::rename(weights, fs::path(folder_.path()) / "other.safetensors");
  EXPECT_THAT(refused(), AllOf(HasSubstr("no model.safetensors, and no model.safetensors.index.json"),
                               HasSubstr("other.safetensors is there")));
  fs::rename(fs::path(folder_.path()) / "other.safetensors", fs::path(folder_.path()) / "pytorch_model.bin");
  EXPECT_THAT(refused(), AllOf(HasSubstr("pytorch_model.bin"), HasSubstr("safe_serialization=True")));
}

TEST_F(HfDirectory, FoldersThatAreSomethingElse) {
  EXPECT_THAT(refused(), testing::EndsWith("so no Hugging Face model directory"));
  folder_.write("model-q4.gguf", "x");
  EXPECT_THAT(refused(), HasSubstr("model-q4.gguf is there: give the file"));
  folder_.write("adapter_config.json", "{}");
  EXPECT_THAT(refused(), HasSubstr("merge_and_unload"));
  json config = take("llama");
  config["quantization_config"] = {{"quant_method", "gptq"}};
  EXPECT_THAT(refused_with(config), AllOf(HasSubstr("config.json: quantization_config (gptq)"), HasSubstr("GGUF")));
}

TEST_F(HfDirectory, ATokenizerThatIsNotThere) {
  take("llama");
  const Checkpoint checkpoint = open_model(folder_.path());
  const auto refused_tokenizer = [&]() -> std::string {
    try {
      make_tokenizer(checkpoint);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refused_tokenizer(), folder_.path() +
                                     ": the model brings no tokenizer: neither tokenizer.json, nor "
                                     "vocab.json with merges.txt");
  folder_.write("tokenizer.model", "x");
  EXPECT_THAT(refused_tokenizer(), HasSubstr("tokenizer.model alone is not read"));
}

TEST_F(HfDirectory, AFileOfItInPlaceOfTheDirectory) {
  take("llama");
  for (const char* name : {"model.safetensors", "config.json"}) {
    const std::string path = (fs::path(folder_.path()) / name).string();
    try {
      open_model(path);
      ADD_FAILURE() << "not refused: " << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::model);
      EXPECT_THAT(error.what(), AllOf(HasSubstr(path), HasSubstr("give the directory: " + folder_.path())));
    }
  }
  EXPECT_THROW(open_model(folder_.path() + "/none.safetensors"), Error);
}

TEST_F(HfDirectory, AnOutputThatIsNotThere) {
  json config = take("mistral");  // tied
  config.erase("tie_word_embeddings");
  EXPECT_THAT(refused_with(config), AllOf(HasSubstr("tie_word_embeddings is not true"), HasSubstr("lm_head.weight")));
}

// transformers makes no parameter of a bias that the config does not ask for, and looks at none in the file.
TEST_F(HfDirectory, BiasesAreThoseThatTheConfigAsksFor) {
  json config = take("llama");
  const auto with_biases = [](json& header, size_t end) {
    header["model.layers.1.self_attn.q_proj.bias"] = zeros_at(end, 3);
    header["model.layers.0.mlp.gate_proj.bias"] = zeros_at(end + 12, 3);
  };
  EXPECT_THAT(open_model(folder_.path()).remarks, testing::IsEmpty());
  write_weights("llama", with_biases);
  const Checkpoint llama = open_model(folder_.path());
  EXPECT_EQ(read_model_spec(llama).layers[1].q_bias.cols, 0);
  EXPECT_THAT(llama.remarks, testing::ElementsAre(folder_.path() +
                                                  "/config.json: 2 biases of the files not asked for, and ignored, as "
                                                  "transformers does: model.layers.0.mlp.gate_proj.bias, ..."));
  config["mlp_bias"] = true;
  EXPECT_THAT(refused_with(config),
              HasSubstr("mlp_bias is true, but the files hold no model.layers.0.mlp.up_proj.bias"));
  config["mlp_bias"] = false;
  config["attention_bias"] = true;
  EXPECT_THAT(refused_with(config), AllOf(HasSubstr("config.json: attention_bias is true, but the files hold no "),
                                          testing::EndsWith("no model.layers.0.self_attn.q_proj.bias")));
}

// Whatever the config says.
TEST_F(HfDirectory, BiasesOfQwen2) {
  json config = take("qwen2");
  config["attention_bias"] = false;
  folder_.write("config.json", config.dump());
  write_weights("qwen2",
                [](json& header, size_t end) { header["model.layers.0.self_attn.o_proj.bias"] = zeros_at(end, 3); });
  const Checkpoint checkpoint = open_model(folder_.path());
  const LayerTensors layer = read_model_spec(checkpoint).layers[0];
  EXPECT_GT(layer.q_bias.cols, 0);
  EXPECT_EQ(layer.attn_out_bias.cols, 0);
  EXPECT_THAT(checkpoint.remarks, testing::ElementsAre(testing::EndsWith(
                                      "1 bias of the files not asked for, and ignored, as transformers does: "
                                      "model.layers.0.self_attn.o_proj.bias")));
  write_weights("qwen2", [](json& header, size_t) { header.erase("model.layers.0.self_attn.k_proj.bias"); });
  EXPECT_THAT(refused(), HasSubstr("a qwen2 has it, but the files hold no model.layers.0.self_attn.k_proj.bias"));
}

// Buffers of integers are passed over; a weight of them is there, and not read.
TEST_F(HfDirectory, WeightsOfIntegersAreNamedWithTheirType) {
  for (const auto& [model, name] :
       {std::pair("llama", "model.layers.0.mlp.up_proj.weight"), std::pair("llama", "lm_head.weight"),
        std::pair("llama", "model.norm.weight"), std::pair("qwen2", "model.layers.1.self_attn.k_proj.bias"),
        std::pair("mixtral", "model.layers.0.block_sparse_moe.gate.weight"),
        std::pair("mixtral", "model.layers.1.block_sparse_moe.experts.0.w1.weight")}) {
    json config = take(model);
    config["tie_word_embeddings"] = std::string(model) == "llama" ? false : config.value("tie_word_embeddings", false);
    folder_.write("config.json", config.dump());
    std::string type;
    write_weights(model, [&, name = name](json& header, size_t end) {
      if (!header.contains(name)) header[name] = zeros_at(end, 4);
      type = integers_of(header[name]);
      header[name]["dtype"] = type;
    });
    EXPECT_THAT(refused(), HasSubstr(std::string("model.safetensors: at byte 8: the tensor ") + name + " is of type " +
                                     type + "; the types read are F32, F16 and BF16"));
  }
  // A tied output is not read.
  json config = take("llama");
  config["tie_word_embeddings"] = true;
  folder_.write("config.json", config.dump());
  write_weights("llama", [](json& header, size_t end) {
    header["lm_head.weight"] = zeros_at(end, 4);
    header["lm_head.weight"]["dtype"] = "I32";
    header["model.embeddings.position_ids"] = header["lm_head.weight"];
  });
  EXPECT_TRUE(read_model_spec(open_model(folder_.path())).tied);
}

// As Gemma 3's: no fault until a text has the token.
TEST_F(HfDirectory, ATokenWithoutARow) {
  const auto tokenizer = make_tokenizer(open_model(write_far_token_model(kModels, folder_.path())));
  EXPECT_EQ(tokenizer->vocab(), 320);
  EXPECT_EQ(tokenizer->encode("a b", true).size(), 3u);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a b", true)), "a b");
  try {
    tokenizer->encode("a <far> b", true);
    ADD_FAILURE() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    EXPECT_THAT(error.what(), AllOf(HasSubstr(folder_.path() + "/tokenizer.json"), HasSubstr("token 330 (\"<far>\")"),
                                    HasSubstr("model.embed_tokens.weight"), HasSubstr("320 rows")));
  }
}

// Each was copied, or printed into a message, by a function that calls itself for every level.
TEST_F(HfDirectory, DepthIsBounded) {
  const std::string deep = nested(1'000'000);
  for (const std::string& config :
       {deep, R"({"text_config":{"a":)" + deep + "}}", R"({"model_type":"llama","hidden_act":)" + deep + "}",
        R"({"model_type":"llama","sliding_window":4,"layer_types":[)" + deep + "]}"}) {
    folder_.write("config.json", config);
    EXPECT_THAT(refused(), AllOf(HasSubstr("config.json"), HasSubstr("nested deeper than 64")));
  }
  take("llama");
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

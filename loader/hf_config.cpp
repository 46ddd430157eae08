#include "loader/hf_config.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "loader/printable.h"

namespace spillway {
namespace {

using nlohmann::json;

struct ModelType {
  const char* name;    // model_type of config.json
  const char* family;  // ours
};
constexpr ModelType kModelTypes[] = {
    {"gemma3_text", "gemma3"}, {"llama", "llama"}, {"mistral", "llama"}, {"mixtral", "llama"},      {"opt", "opt"},
    {"phi3", "phi3"},          {"qwen2", "qwen2"}, {"qwen3", "qwen3"},   {"qwen3_moe", "qwen3moe"},
};

struct Renamed {
  const char* from;  // config.json
  const char* to;    // GGUF, after the family
};
constexpr Renamed kIntegers[] = {
    {"num_hidden_layers", "block_count"},
    {"hidden_size", "embedding_length"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv"},
    {"head_dim", "attention.key_length"},
    {"max_position_embeddings", "context_length"},
    {"vocab_size", "vocab_size"},
};

// What would be computed otherwise than here: absent, null, or that value.
struct Expected {
  const char* key;
  json value;
};

class ConfigReader {
 public:
  ConfigReader(const json& config, const std::string& path) : config_(config), path_(path) {}

  std::map<std::string, MetaValue> read() {
    const std::string type = text(config_, "model_type").value_or("");
    for (const ModelType& known : kModelTypes) {
      if (type == known.name) family_ = known.family;
    }
    mixtral_ = type == "mixtral";
    if (family_.empty()) {
      std::string list;
      for (const ModelType& known : kModelTypes) list += (list.empty() ? "" : ", ") + std::string(known.name);
      refuse(fmt::format("model_type is \"{}\", which is not known; known: {}", printable(type), list));
    }
    meta_["general.architecture"] = family_;
    for (const Renamed& key : kIntegers) {
      if (const auto value = integer(config_, key.from)) set(key.to, *value);
    }
    if (const auto dim = integer(config_, "head_dim")) set("attention.value_length", *dim);
    meta_["general.tied"] = flag("tie_word_embeddings", family_ == "gemma3" || family_ == "opt");
    read_feed_forward();
    if (mixtral_ || family_ == "qwen3moe") read_experts();
    read_norms();
    if (family_ == "opt") {
      read_opt();
    } else {
      read_rope();
      read_window();
    }
    return std::move(meta_);
  }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    throw Error(ErrorKind::model, fmt::format("{}: {}", path_, message));
  }

  void set(const std::string& key, MetaValue value) { meta_[family_ + "." + key] = std::move(value); }

  // The value under `key`; null where it is missing or null.
  static const json* find(const json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }

  std::optional<int64_t> integer(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) return {};
    if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) {
      refuse(fmt::format("{} is no whole number", key));
    }
    return value->get<int64_t>();
  }

  std::optional<double> number(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) return {};
    if (!value->is_number()) refuse(fmt::format("{} is no number", key));
    return value->get<double>();
  }

  std::optional<std::string> text(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) return {};
    if (!value->is_string()) refuse(fmt::format("{} is no text", key));
    return value->get<std::string>();
  }

  bool flag(const char* key, bool fallback) const {
    const json* value = find(config_, key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) refuse(fmt::format("{} is neither true nor false", key));
    return value->get<bool>();
  }

  void expect(std::initializer_list<Expected> all) const {
    for (const Expected& one : all) {
      const json* value = find(config_, one.key);
      if (value != nullptr && *value != one.value) {
        refuse(fmt::format("{} is {}, which is not known; only {} is", one.key, printable(value->dump()),
                           one.value.dump()));
      }
    }
  }

  void read_feed_forward() {
    const bool opt = family_ == "opt";
    const auto width = integer(config_, opt ? "ffn_dim" : "intermediate_size");
    if (width) set("feed_forward_length", *width);
    const char* key = opt ? "activation_function" : family_ == "gemma3" ? "hidden_activation" : "hidden_act";
    const char* wanted = opt ? "relu" : family_ == "gemma3" ? "gelu_pytorch_tanh" : "silu";
    expect({{key, wanted}});
  }

  void read_experts() {
    // Newer files of either family may have either name.
    auto count = integer(config_, mixtral_ ? "num_local_experts" : "num_experts");
    if (!count) count = integer(config_, mixtral_ ? "num_experts" : "num_local_experts");
    if (!count) refuse("the number of experts is missing");
    set("expert_count", *count);
    if (const auto used = integer(config_, "num_experts_per_tok")) set("expert_used_count", *used);
    if (const auto width = integer(config_, "moe_intermediate_size")) set("expert_feed_forward_length", *width);
    set("expert_weights_norm", mixtral_ || flag("norm_topk_prob", false));
  }

  void read_norms() {
    if (family_ == "opt") {
      set("attention.layer_norm_epsilon", 1e-5);  // the framework's own default, which no OPT changes
      return;
    }
    set("attention.layer_norm_rms_epsilon", number(config_, "rms_norm_eps").value_or(1e-6));
    if (family_ != "gemma3") return;
    set("norm_offset", 1.0);  // its norms multiply by 1 + weight
    expect({{"attn_logit_softcapping", nullptr}, {"final_logit_softcapping", nullptr}});
    expect({{"use_bidirectional_attention", false}});
    if (const auto scalar = number(config_, "query_pre_attn_scalar")) {
      if (!(*scalar > 0)) refuse("query_pre_attn_scalar is not positive");
      set("attention.scale", 1.0 / std::sqrt(*scalar));
    }
  }

  void read_opt() {
    set("position_offset", int64_t{2});
    expect({{"do_layer_norm_before", true},
            {"_remove_final_layer_norm", false},
            {"enable_bias", true},
            {"layer_norm_elementwise_affine", true}});
    if (const auto width = integer(config_, "word_embed_proj_dim")) expect({{"hidden_size", *width}});
  }

  // Newer files have one object of all of it; Gemma's has one for each kind of layer.
  void read_rope() {
    set("rope.style", std::string("halves"));
    const json* rope = find(config_, "rope_parameters");
    const json* local = nullptr;
    if (rope != nullptr && rope->is_object() && rope->contains("full_attention")) {
      local = find(*rope, "sliding_attention");
      rope = find(*rope, "full_attention");
    }
    if (rope == nullptr) rope = find(config_, "rope_scaling");
    for (const json* part : {rope, local}) {
      if (part != nullptr && !part->is_object()) refuse("the rotation's parameters are no object");
    }
    const json& where = rope != nullptr && rope->contains("rope_theta") ? *rope : config_;
    set("rope.freq_base", number(where, "rope_theta").value_or(family_ == "gemma3" ? 1e6 : 1e4));
    if (family_ == "gemma3") {
      const auto base = local != nullptr ? number(*local, "rope_theta") : number(config_, "rope_local_base_freq");
      set("rope.freq_base_swa", base.value_or(1e4));
    }
    read_partial(rope != nullptr && rope->contains("partial_rotary_factor") ? *rope : config_);
    if (rope != nullptr) read_scaling(*rope);
  }

  void read_partial(const json& where) {
    const double share = number(where, "partial_rotary_factor").value_or(1.0);
    if (share == 1.0) return;
    const auto heads = integer(config_, "num_attention_heads").value_or(0);
    const auto hidden = integer(config_, "hidden_size").value_or(0);
    const int64_t dim = integer(config_, "head_dim").value_or(heads > 0 ? hidden / heads : 0);
    if (!(share > 0.0 && share < 1.0)) refuse("partial_rotary_factor must lie between 0 and 1");
    set("rope.dimension_count", static_cast<int64_t>(share * static_cast<double>(dim)));
  }

  void read_scaling(const json& rope) {
    std::string type = text(rope, "rope_type").value_or(text(rope, "type").value_or("default"));
    if (type == "default") type = "none";
    if (type == "su") type = "longrope";
    set("rope.scaling.type", type);
    for (const Renamed& key : {Renamed{"factor", "factor"},
                               {"low_freq_factor", "low_freq_factor"},
                               {"high_freq_factor", "high_freq_factor"},
                               {"attention_factor", "attn_factor"},
                               {"beta_fast", "yarn_beta_fast"},
                               {"beta_slow", "yarn_beta_slow"}}) {
      if (const auto value = number(rope, key.from)) set(std::string("rope.scaling.") + key.to, *value);
    }
    for (const char* key : {"mscale", "mscale_all_dim"}) {
      if (find(rope, key) != nullptr) refuse(fmt::format("the rotation has {}, which is not known here", key));
    }
    auto original = integer(rope, "original_max_position_embeddings");
    if (!original) original = integer(config_, "original_max_position_embeddings");
    if (!original && type == "yarn") original = integer(config_, "max_position_embeddings");
    if (original) set("rope.scaling.original_context_length", *original);
    for (const Renamed& key : {Renamed{"short_factor", "short_factors"}, {"long_factor", "long_factors"}}) {
      if (const json* list = find(rope, key.from)) {
        set(std::string("rope.scaling.") + key.to, MetaArray(numbers(*list, key.from)));
      }
    }
  }

  std::vector<double> numbers(const json& list, const char* key) const {
    std::vector<double> values;
    if (!list.is_array()) refuse(fmt::format("{} is no list", key));
    for (const json& value : list) {
      if (!value.is_number()) refuse(fmt::format("{} is no list of numbers", key));
      values.push_back(value.get<double>());
    }
    return values;
  }

  void read_window() {
    const auto window = integer(config_, "sliding_window");
    const bool qwen = family_.starts_with("qwen");
    if (!window || (qwen && !flag("use_sliding_window", false))) return;
    set("attention.sliding_window", *window);
    const int64_t layers = integer(config_, "num_hidden_layers").value_or(0);
    if (layers < 0 || layers > 1024) return;  // refused where the shape is read
    std::vector<int64_t> slides;
    if (const json* types = find(config_, "layer_types")) {
      if (!types->is_array()) refuse("layer_types is no list");
      for (const json& type : *types) {
        if (type != "sliding_attention" && type != "full_attention") {
          refuse(fmt::format("layer_types has {}; known: sliding_attention, full_attention", printable(type.dump())));
        }
        slides.push_back(type == "sliding_attention");
      }
    } else if (qwen) {
      const int64_t first = integer(config_, "max_window_layers").value_or(28);
      for (int64_t layer = 0; layer < layers; ++layer) slides.push_back(layer >= first);
    } else if (const auto pattern = integer(config_, "sliding_window_pattern")) {
      set("attention.sliding_window_pattern", *pattern);
    }
    if (!slides.empty()) set("attention.sliding_window_pattern", MetaArray(slides));
  }

  const json& config_;
  const std::string& path_;
  std::string family_;
  bool mixtral_ = false;
  std::map<std::string, MetaValue> meta_;
};

}  // namespace

std::map<std::string, MetaValue> read_hf_config(const json& config, const std::string& path) {
  if (!config.is_object()) throw Error(ErrorKind::model, fmt::format("{}: no JSON object", path));
  // A model of text and images keeps what concerns text in an object of its own.
  const auto inner = config.find("text_config");
  const bool apart = inner != config.end() && inner->is_object();
  return ConfigReader(apart ? *inner : config, path).read();
}

}  // namespace spillway

#include "loader/hf_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "loader/hf_types.h"
#include "loader/printable.h"

namespace spillway {
namespace {

using nlohmann::json;

struct Renamed {
  const char* from;  // config.json
  const char* to;    // GGUF
};

// What would be computed otherwise than here: absent, null, or that value.
struct Expected {
  const char* key;
  json value;
};

class ConfigReader {
 public:
  // `part`: of a larger file, where it was written as what differs from the defaults.
  ConfigReader(const json& config, std::string path, bool part)
      : config_(config), path_(std::move(path)), part_(part) {}

  HfConfig read() {
    const auto type = text(config_, "model_type");
    if (!type) {
      refuse(fmt::format("model_type is missing, so that the family of the model is not known; known: {}",
                         known_hf_types()));
    }
    type_ = find_hf_type(*type);
    if (type_ == nullptr) {
      refuse(fmt::format("model_type is \"{}\", which is not known; known: {}", printable(*type), known_hf_types()));
    }
    family_ = type_->family;
    result_.meta["general.architecture"] = family_;
    const bool tied = flag("tie_word_embeddings", type_->tied);
    result_.meta["general.tied"] = tied;
    read_sizes();
    read_heads();
    read_feed_forward();
    if (type_->experts > 0) read_experts();
    read_norms();
    read_biases();
    if (family_ == "opt") {
      read_opt();
    } else {
      read_rope();
      read_window();
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const std::string& message) const {
    throw Error(ErrorKind::model, fmt::format("{}: {}", path_, message));
  }

  // `from`: what config.json calls it.
  void set(const std::string& to, MetaValue value, const std::string& from) {
    result_.names[family_ + "." + to] = from;
    set(to, std::move(value));
  }
  void set(const std::string& to, MetaValue value) { result_.meta[family_ + "." + to] = std::move(value); }

  // The value under `key`; null where it is missing or null.
  static const json* find(const json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  // null says something else than nothing does.
  bool is_null(const char* key) const { return config_.contains(key) && config_[key].is_null(); }

  std::optional<int64_t> integer(const json& object, const char* key) const {
    const json* value = find(object, key);
    if (value == nullptr) return {};
    if (!value->is_number_integer() || (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX)) {
      refuse(fmt::format("{} is no whole number", key));
    }
    return value->get<int64_t>();
  }

  // A size, which no file of its own leaves out: a default would hide the fault behind tensors of another shape.
  int64_t size(const char* key, int64_t fallback) const {
    const auto value = integer(config_, key);
    if (!value && !part_) refuse(fmt::format("{} is missing", key));
    return value.value_or(fallback);
  }
  int64_t layers() const { return size("num_hidden_layers", type_->layers); }
  int64_t hidden() const { return size("hidden_size", type_->hidden); }

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

  void read_sizes() {
    set("block_count", layers(), "num_hidden_layers");
    set("embedding_length", hidden(), "hidden_size");
    const char* context = "max_position_embeddings";
    set("context_length", integer(config_, context).value_or(type_->context), context);
    if (const auto vocab = integer(config_, "vocab_size")) set("vocab_size", *vocab, "vocab_size");
  }

  void read_heads() {
    const char *q = "num_attention_heads", *kv = "num_key_value_heads", *dim = "head_dim";
    const int64_t heads = integer(config_, q).value_or(type_->heads);
    set("attention.head_count", heads, q);
    result_.names[family_ + ".attention.key_length"] = dim;
    if (family_ == "opt") return;
    const bool as_many = type_->kv_heads == 0 || is_null(kv);
    set("attention.head_count_kv", integer(config_, kv).value_or(as_many ? heads : type_->kv_heads), kv);
    const int64_t each = integer(config_, dim).value_or(type_->head_dim);
    if (each == 0 && find(config_, dim) == nullptr) return;  // hidden_size / heads
    set("attention.key_length", each, dim);
    set("attention.value_length", each, dim);
  }

  void read_feed_forward() {
    const bool opt = family_ == "opt";
    const char* width = opt ? "ffn_dim" : "intermediate_size";
    set("feed_forward_length", size(width, type_->ffn), width);
    const char* key = opt ? "activation_function" : family_ == "gemma3" ? "hidden_activation" : "hidden_act";
    const char* wanted = opt ? "relu" : family_ == "gemma3" ? "gelu_pytorch_tanh" : "silu";
    expect({{key, wanted}});
  }

  void read_experts() {
    // Files of either family have either name.
    const bool mixtral = family_ == "llama";
    const char* name = find(config_, "num_local_experts") != nullptr || mixtral ? "num_local_experts" : "num_experts";
    auto count = integer(config_, name);
    if (!count) count = integer(config_, "num_experts");
    set("expert_count", count.value_or(type_->experts), name);
    const char *used = "num_experts_per_tok", *width = "moe_intermediate_size";
    set("expert_used_count", integer(config_, used).value_or(type_->experts_used), used);
    if (!mixtral) set("expert_feed_forward_length", integer(config_, width).value_or(type_->expert_ffn), width);
    set("expert_weights_norm", mixtral || flag("norm_topk_prob", false));
  }

  void read_norms() {
    if (family_ == "opt") {
      set("attention.layer_norm_epsilon", type_->norm_eps);  // the framework's own, which no OPT changes
      return;
    }
    set("attention.layer_norm_rms_epsilon", number(config_, "rms_norm_eps").value_or(type_->norm_eps), "rms_norm_eps");
    if (family_ != "gemma3") return;
    set("norm_offset", 1.0);  // its norms multiply by 1 + weight
    expect({{"attn_logit_softcapping", nullptr}, {"final_logit_softcapping", nullptr}});
    expect({{"use_bidirectional_attention", false}});
    const double scalar = number(config_, "query_pre_attn_scalar").value_or(256);
    if (!(scalar > 0)) refuse("query_pre_attn_scalar is not positive");
    set("attention.scale", 1.0 / std::sqrt(scalar), "query_pre_attn_scalar");
  }

  void read_biases() {
    const auto why = [&](HfBiases which, const char* key) -> std::string {
      if (which == HfBiases::never || (which == HfBiases::asked && !flag(key, false))) return "";
      return which == HfBiases::asked ? fmt::format("{} is true", key) : fmt::format("a {} has it", type_->name);
    };
    const auto add = [&](const std::string& reason, std::initializer_list<const char*> parts) {
      if (reason.empty()) return;
      for (const char* part : parts) result_.biases.push_back({part, reason});
    };
    const std::string attention = why(type_->attention_biases, "attention_bias");
    add(attention, {"attn_q", "attn_k", "attn_v"});
    if (type_->attention_biases != HfBiases::inputs) add(attention, {"attn_output"});
    const std::string mlp = why(type_->mlp_biases, "mlp_bias");
    if (family_ != "opt") add(mlp, {"ffn_gate"});
    add(mlp, {"ffn_up", "ffn_down"});
  }

  void read_opt() {
    set("position_offset", int64_t{2});
    expect({{"do_layer_norm_before", true},
            {"_remove_final_layer_norm", false},
            {"enable_bias", true},
            {"layer_norm_elementwise_affine", true}});
    const int64_t width = integer(config_, "word_embed_proj_dim").value_or(hidden());
    if (width != hidden()) {
      refuse(
          fmt::format("word_embed_proj_dim is {} and hidden_size is {}: an embedding that is projected (OPT-350m) is "
                      "not known",
                      width, hidden()));
    }
  }

  // The rotation's parameters: an object of their own, under the older name or the newer one, and what stands beside it
  // in older files. Gemma's newer files have one for each kind of layer.
  void read_rope() {
    set("rope.style", std::string("halves"));
    const json* rope = parameters("rope_scaling");
    rope_name_ = rope != nullptr && !rope->empty() ? "rope_scaling" : "rope_parameters";
    const json* newer = parameters("rope_parameters");
    if (rope == nullptr || rope->empty()) rope = newer;
    static const json none = json::object();
    if (family_ == "gemma3") {
      read_local_rope(newer);
      if (rope == newer && newer != nullptr) {
        rope = parameters("full_attention", *newer);
        rope_name_ += ".full_attention";
      }
    } else if (rope != nullptr && (rope->contains("full_attention") || rope->contains("sliding_attention"))) {
      refuse(fmt::format("{} has an object for each kind of layer, which a {} is not known to have", rope_name_,
                         type_->name));
    }
    if (rope == nullptr) rope = &none;
    const json* full = family_ == "gemma3" && newer != nullptr ? find(*newer, "full_attention") : nullptr;
    auto theta = number(*rope, "rope_theta");
    if (!theta && full != nullptr) theta = number(*full, "rope_theta");
    if (!theta) theta = number(config_, "rope_theta");
    set("rope.freq_base", theta.value_or(type_->rope_theta), "rope_theta");
    read_partial(*rope);
    read_scaling(*rope);
  }

  const json* parameters(const char* key) const { return parameters(key, config_); }
  const json* parameters(const char* key, const json& of) const {
    const json* found = find(of, key);
    if (found != nullptr && !found->is_object()) refuse(fmt::format("{} is no object", key));
    return found;
  }

  // Of Gemma's layers with a window: `newer` is rope_parameters.
  void read_local_rope(const json* newer) {
    const json* local = newer != nullptr ? parameters("sliding_attention", *newer) : nullptr;
    if (newer != nullptr && !newer->empty() && !newer->contains("full_attention") && local == nullptr) {
      refuse("rope_parameters has no object for full_attention and none for sliding_attention");
    }
    std::optional<double> base;
    if (local != nullptr) {
      const std::string type = text(*local, "rope_type").value_or(text(*local, "type").value_or("default"));
      if (type != "default") {
        refuse(
            fmt::format("rope_parameters.sliding_attention.rope_type is \"{}\", which is not known; only "
                        "\"default\" is",
                        printable(type)));
      }
      base = number(*local, "rope_theta");
    }
    if (!base) base = number(config_, "rope_local_base_freq");
    set("rope.freq_base_swa", base.value_or(1e4), "rope_local_base_freq");
  }

  std::string scaling_type(const json& rope) const {
    const std::string type = text(rope, "rope_type").value_or(text(rope, "type").value_or("default"));
    if (type == "default") return "none";
    // As Phi's older files call it.
    return type == "su" || (type == "yarn" && family_ == "phi3") ? "longrope" : type;
  }

  // Phi's heads alone are rotated in part. Of the other families transformers rotates the whole head where nothing is
  // scaled, whatever the file says; where something is, it makes too few angles for its heads, and fails.
  void read_partial(const json& rope) {
    const char* key = "partial_rotary_factor";
    const double share = number(rope.contains(key) ? rope : config_, key).value_or(1.0);
    if (share == 1.0) return;
    const std::string type = scaling_type(rope);
    if (family_ != "phi3") {
      if (type == "none") return;
      refuse(fmt::format("{} is {} where {}.rope_type is \"{}\"; a {} rotates whole heads", key, share, rope_name_,
                         printable(type), type_->name));
    }
    const int64_t heads = integer(config_, "num_attention_heads").value_or(type_->heads);
    int64_t dim = integer(config_, "head_dim").value_or(type_->head_dim);
    if (dim == 0 && heads > 0) dim = hidden() / heads;
    if (!(share > 0.0 && share < 1.0)) refuse("partial_rotary_factor must lie between 0 and 1");
    set("rope.dimension_count", static_cast<int64_t>(share * static_cast<double>(dim)), "partial_rotary_factor");
  }

  void read_scaling(const json& rope) {
    const std::string type = scaling_type(rope);
    const auto named = [&](const char* from) { return fmt::format("{}.{}", rope_name_, from); };
    const auto scaling = [&](const std::string& to, MetaValue value, const char* from) {
      set("rope.scaling." + to, std::move(value), named(from));
    };
    scaling("type", type, rope.contains("rope_type") || !rope.contains("type") ? "rope_type" : "type");
    for (const Renamed& key : {Renamed{"factor", "factor"},
                               {"low_freq_factor", "low_freq_factor"},
                               {"high_freq_factor", "high_freq_factor"},
                               {"attention_factor", "attn_factor"},
                               {"beta_fast", "yarn_beta_fast"},
                               {"beta_slow", "yarn_beta_slow"}}) {
      result_.names[fmt::format("{}.rope.scaling.{}", family_, key.to)] = named(key.from);
      if (const auto value = number(rope, key.from)) scaling(key.to, *value, key.from);
    }
    for (const char* key : {"mscale", "mscale_all_dim"}) {
      if (find(rope, key) != nullptr) refuse(fmt::format("{} has {}, which is not known here", rope_name_, key));
    }
    if (const json* truncate = find(rope, "truncate"); truncate != nullptr && *truncate != true) {
      refuse(
          fmt::format("{}.truncate is {}, which is not known; only true is", rope_name_, printable(truncate->dump())));
    }
    const int64_t original = original_context(rope);
    scaling("original_context_length", original, "original_max_position_embeddings");
    if (type == "longrope") read_magnitude(rope, original);
    for (const Renamed& key : {Renamed{"short_factor", "short_factors"}, {"long_factor", "long_factors"}}) {
      if (const json* list = find(rope, key.from)) scaling(key.to, MetaArray(numbers(*list, key.from)), key.from);
    }
  }

  // Beside the rotation's parameters, with a default of its own in Phi, which hides what stands among them; else among
  // them, as always where each kind of layer has its own (Gemma), or the context itself.
  int64_t original_context(const json& rope) const {
    const char* key = "original_max_position_embeddings";
    const auto beside = integer(config_, key), among = integer(rope, key);
    if (beside && family_ != "gemma3") return *beside;
    if (type_->first_context > 0) return type_->first_context;
    if (among) return *among;
    return integer(config_, "max_position_embeddings").value_or(type_->context);
  }

  // LongRoPE's follows from how far the context is stretched (a GGUF's key has the result), which a file may say
  // itself.
  void read_magnitude(const json& rope, int64_t original) {
    const auto factor = number(rope, "factor");
    if (!factor || number(rope, "attention_factor") || original < 2) return;
    const double stretch = std::max(*factor, 1.0);
    set("rope.scaling.attn_factor", std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original))),
        rope_name_ + ".factor");
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
    const char *key = "sliding_window", *pattern = "sliding_window_pattern";
    if (type_->slides == HfWindow::never) return;
    if (is_null(key) && family_ == "gemma3") refuse("sliding_window is null, but some layers have a window");
    if (is_null(key)) return;
    if (type_->window_asked && !flag("use_sliding_window", false)) return;
    const int64_t window = integer(config_, key).value_or(type_->window);
    if (window == 0 && find(config_, key) == nullptr) return;
    set("attention.sliding_window", window, key);
    if (layers() < 0 || layers() > 1024) return;  // refused where the shape is read
    std::vector<int64_t> slides = read_layer_types();
    if (type_->slides == HfWindow::all_layers) {
      // transformers does not look at them in these families: what would be computed is not what the file says.
      if (std::find(slides.begin(), slides.end(), 0) != slides.end()) {
        refuse(fmt::format("layer_types has full_attention; in a {} all layers have the window", type_->name));
      }
      slides.clear();
    } else if (slides.empty() && family_ == "gemma3") {
      if (const auto every = integer(config_, pattern)) set("attention.sliding_window_pattern", *every, pattern);
    } else if (slides.empty()) {
      const int64_t first = integer(config_, "max_window_layers").value_or(28);
      for (int64_t layer = 0; layer < layers(); ++layer) slides.push_back(layer >= first);
    }
    if (!slides.empty()) set("attention.sliding_window_pattern", MetaArray(slides), "layer_types");
  }

  // Of each layer, whether it has the window; none where the file does not say.
  std::vector<int64_t> read_layer_types() const {
    std::vector<int64_t> slides;
    const json* types = find(config_, "layer_types");
    if (types == nullptr) return slides;
    if (!types->is_array()) refuse("layer_types is no list");
    for (const json& type : *types) {
      if (type != "sliding_attention" && type != "full_attention") {
        refuse(fmt::format("layer_types has {}; known: sliding_attention, full_attention", printable(type.dump())));
      }
      slides.push_back(type == "sliding_attention");
    }
    return slides;
  }

  const json& config_;
  const std::string path_;
  const bool part_;
  const HfType* type_ = nullptr;
  std::string family_, rope_name_;
  HfConfig result_;
};

}  // namespace

HfConfig read_hf_config(const json& config, const std::string& path) {
  if (!config.is_object()) throw Error(ErrorKind::model, fmt::format("{}: no JSON object", path));
  if (const auto stored = config.find("quantization_config"); stored != config.end() && !stored->is_null()) {
    const auto method = stored->is_object() ? stored->find("quant_method") : stored->end();
    const bool named = stored->is_object() && method != stored->end() && method->is_string();
    throw Error(ErrorKind::model,
                fmt::format("{}: quantization_config{}: of a Hugging Face directory, weights of F32, F16 and BF16 are "
                            "read; quantised ones from a GGUF",
                            path, named ? fmt::format(" ({})", printable(method->get<std::string>())) : ""));
  }
  // A model of text and images keeps what concerns text in an object of its own.
  const auto inner = config.find("text_config");
  const bool apart = inner != config.end() && inner->is_object();
  if (!apart) return ConfigReader(config, path, false).read();
  HfConfig result = ConfigReader(*inner, path + ": text_config", true).read();
  for (auto& [key, name] : result.names) name = "text_config." + name;
  return result;
}

}  // namespace spillway

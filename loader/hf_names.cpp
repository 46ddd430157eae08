#include "loader/hf_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace spillway {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

constexpr Names kWhole[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"embed_positions", "position_embd"},  // OPT
    {"final_layer_norm", "output_norm"},   // OPT
};

constexpr Names kOfLayer[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.gate_up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"self_attn.out_proj", "attn_output"},  // OPT, from here on
    {"self_attn_layer_norm", "attn_norm"},
    {"final_layer_norm", "ffn_norm"},
    {"fc1", "ffn_up"},
    {"fc2", "ffn_down"},
};

// Of an expert: Qwen's, then Mixtral's.
constexpr Names kOfExpert[] = {
    {"gate_proj", "ffn_gate"}, {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"},
    {"w1", "ffn_gate"},        {"w3", "ffn_up"},      {"w2", "ffn_down"},
};

std::optional<std::string_view> strip(std::string_view text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return {};
  return text.substr(prefix.size());
}

// The name of a layer's part, without its number and without ".weight" or ".bias".
std::optional<std::string_view> part_of_layer(std::string_view part, const std::string& family) {
  if (part == "post_attention_layernorm") return family == "gemma3" ? "post_attention_norm" : "ffn_norm";
  for (const auto& [from, to] : kOfLayer) {
    if (part == from) return to;
  }
  return {};
}

// The router, or "ffn_gate.7" of expert 7, as a GGUF names one that has a tensor of its own.
std::optional<std::string> part_of_expert(std::string_view part) {
  for (const std::string_view prefix : {"mlp.", "block_sparse_moe."}) {
    const auto inner = strip(part, prefix);
    if (!inner) continue;
    if (*inner == "gate") return "ffn_gate_inp";
    const auto expert = strip(*inner, "experts.");
    const size_t dot = expert ? expert->find('.') : std::string_view::npos;
    if (dot == std::string_view::npos) return {};
    for (const auto& [from, to] : kOfExpert) {
      if (expert->substr(dot + 1) == from) return std::string(to) + "." + std::string(expert->substr(0, dot));
    }
  }
  return {};
}

// OPT's names stand behind the others' in the tables, Mixtral's behind Qwen's; the family llama has experts as Mixtral.
template <typename Table>
std::string_view hf_part(const Table& table, std::string_view part, bool last) {
  std::string_view found;
  for (const auto& [from, to] : table) {
    if (part == to && (found.empty() || last)) found = from;
  }
  return found;
}

std::string hf_part_of_layer(std::string_view part, const std::string& family) {
  const std::string mixture = family == "llama" ? "block_sparse_moe." : "mlp.";
  if (part == "ffn_gate_inp") return mixture + "gate";
  // "ffn_gate.7" of expert 7, "ffn_gate_exps" of all.
  const size_t dot = part.find('.'), all = part.rfind("_exps");
  if (dot != std::string_view::npos || all != std::string_view::npos) {
    const std::string_view expert = dot == std::string_view::npos ? "0" : part.substr(dot + 1);
    const std::string_view matrix = hf_part(kOfExpert, part.substr(0, std::min(dot, all)), family == "llama");
    return mixture + "experts." + std::string(expert) + "." + std::string(matrix);
  }
  if (part == "post_attention_norm") return "post_attention_layernorm";
  if (part == "ffn_norm" && family != "gemma3" && family != "opt") return "post_attention_layernorm";
  if (part == "ffn_up" && family == "phi3") return "mlp.gate_up_proj";
  return std::string(hf_part(kOfLayer, part, family == "opt"));
}

}  // namespace

std::string hf_name_of_gguf(const std::string& name, const std::string& family) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return name;
  const std::string_view rest = std::string_view(name).substr(0, dot);
  const std::string kind = name.substr(dot), model = family == "opt" ? "model.decoder." : "model.";
  if (rest == "output") return "lm_head" + kind;
  if (const auto whole = hf_part(kWhole, rest, family == "opt"); !whole.empty()) {
    return model + std::string(whole) + kind;
  }
  const auto layer = strip(rest, "blk.");
  const size_t end = layer ? layer->find('.') : std::string_view::npos;
  if (end == std::string_view::npos) return name;
  const std::string part = hf_part_of_layer(layer->substr(end + 1), family);
  if (part.empty()) return name;
  return fmt::format("{}layers.{}.{}{}", model, layer->substr(0, end), part, kind);
}

std::optional<std::string> gguf_name_of_hf(const std::string& name, const std::string& family) {
  if (name.ends_with(".rotary_emb.inv_freq")) return {};
  for (const std::string_view images : {"vision_tower.", "multi_modal_projector."}) {
    if (strip(name, "model.").value_or(name).starts_with(images)) return {};
  }
  std::string_view rest = name;
  const size_t dot = rest.rfind('.');
  if (dot == std::string_view::npos) return name;
  const std::string kind(rest.substr(dot));  // ".weight" or ".bias"
  rest = rest.substr(0, dot);
  // Models of text inside models of text and images have a further prefix.
  for (const std::string_view prefix : {"language_model.", "model.", "language_model.", "decoder."}) {
    rest = strip(rest, prefix).value_or(rest);
  }
  if (rest == "lm_head") return "output" + kind;
  for (const auto& [from, to] : kWhole) {
    if (rest == from) return std::string(to) + kind;
  }
  const auto layer = strip(rest, "layers.");
  const size_t end = layer ? layer->find('.') : std::string_view::npos;
  if (end == std::string_view::npos) return name;
  const std::string block = "blk." + std::string(layer->substr(0, end)) + ".";
  if (const auto expert = part_of_expert(layer->substr(end + 1))) return block + *expert + kind;
  const auto part = part_of_layer(layer->substr(end + 1), family);
  if (!part) return name;
  return block + std::string(*part) + kind;
}

}  // namespace spillway

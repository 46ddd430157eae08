#include "loader/hf_types.h"

namespace spillway {
namespace {

constexpr HfType kTypes[] = {
    {.name = "gemma3_text",
     .family = "gemma3",
     .layers = 26,
     .hidden = 2304,
     .ffn = 9216,
     .heads = 8,
     .kv_heads = 4,
     .head_dim = 256,
     .context = 131072,
     .rope_theta = 1e6,
     .slides = HfWindow::some_layers,
     .window = 4096,
     .tied = true,
     .attention_biases = HfBiases::asked},
    {.name = "llama",
     .family = "llama",
     .ffn = 11008,
     .context = 2048,
     .attention_biases = HfBiases::asked,
     .mlp_biases = HfBiases::asked},
    {.name = "mistral",
     .family = "llama",
     .ffn = 14336,
     .kv_heads = 8,
     .context = 131072,
     .slides = HfWindow::all_layers,
     .window = 4096},
    {.name = "mixtral",
     .family = "llama",
     .ffn = 14336,
     .kv_heads = 8,
     .context = 131072,
     .norm_eps = 1e-5,
     .rope_theta = 1e6,
     .slides = HfWindow::all_layers,
     .experts = 8,
     .experts_used = 2},
    {.name = "opt",
     .family = "opt",
     .layers = 12,
     .hidden = 768,
     .ffn = 3072,
     .heads = 12,
     .context = 2048,
     .norm_eps = 1e-5,
     .tied = true,
     .attention_biases = HfBiases::always,
     .mlp_biases = HfBiases::always},
    {.name = "phi3",
     .family = "phi3",
     .hidden = 3072,
     .ffn = 8192,
     .context = 4096,
     .norm_eps = 1e-5,
     .slides = HfWindow::all_layers,
     .first_context = 4096},
    {.name = "qwen2",
     .family = "qwen2",
     .ffn = 22016,
     .kv_heads = 32,
     .slides = HfWindow::some_layers,
     .window = 4096,
     .window_asked = true,
     .attention_biases = HfBiases::inputs},
    {.name = "qwen3",
     .family = "qwen3",
     .ffn = 22016,
     .kv_heads = 32,
     .head_dim = 128,
     .slides = HfWindow::some_layers,
     .window = 4096,
     .window_asked = true,
     .attention_biases = HfBiases::asked},
    {.name = "qwen3_moe",
     .family = "qwen3moe",
     .layers = 24,
     .hidden = 2048,
     .ffn = 6144,
     .kv_heads = 4,
     .slides = HfWindow::all_layers,
     .window = 4096,
     .window_asked = true,
     .experts = 128,
     .experts_used = 8,
     .expert_ffn = 768,
     .attention_biases = HfBiases::asked},
};

}  // namespace

const HfType* find_hf_type(const std::string& name) {
  for (const HfType& type : kTypes) {
    if (name == type.name) return &type;
  }
  return nullptr;
}

std::string known_hf_types() {
  std::string list;
  for (const HfType& type : kTypes) list += (list.empty() ? "" : ", ") + std::string(type.name);
  return list;
}

}  // namespace spillway

#include "loader/family.h"

namespace spillway {
namespace {

constexpr Family kFamilies[] = {
    {.name = "gemma3",
     .activation = Activation::gelu,
     .head_norms = true,
     .post_norms = true,
     .scaled_embedding = true,
     .local_rope = true,
     .window_pattern = 6},
    // Mixtral too (arXiv 2401.04088).
    {.name = "llama", .rotation = RotationStyle::adjacent, .experts = Experts::possible},
    {.name = "opt", .norm = NormKind::layer, .activation = Activation::relu, .gated = false, .learned_positions = true},
    {.name = "phi3", .fused = true},
    {.name = "qwen2"},
    {.name = "qwen3", .head_norms = true},
    {.name = "qwen3moe", .head_norms = true, .experts = Experts::always},
};

}  // namespace

const Family* find_family(const std::string& name) {
  for (const Family& family : kFamilies) {
    if (name == family.name) return &family;
  }
  return nullptr;
}

std::string known_families() {
  std::string list;
  for (const Family& family : kFamilies) list += (list.empty() ? "" : ", ") + std::string(family.name);
  return list;
}

}  // namespace spillway

// The model types of Hugging Face's transformers that are known here, and what each takes for a key that its
// config.json leaves out.
#pragma once

#include <cstdint>
#include <string>

namespace spillway {

// Which layers see a window of positions where there is one.
enum class HfWindow : uint8_t {
  never,        // sliding_window is not looked at
  all_layers,   // layer_types is not looked at
  some_layers,  // by layer_types, or a rule of the family
};

// Which of its matrices have a bias. What a file holds beside them transformers does not look at.
enum class HfBiases : uint8_t {
  never,
  asked,   // where the config's flag says so (attention_bias, mlp_bias)
  inputs,  // of attention always those of queries, keys and values, never the output's
  always,
};

// Defaults of the configuration classes of transformers (5.24).
struct HfType {
  const char* name;    // model_type of config.json
  const char* family;  // ours
  int64_t layers = 32;
  int64_t hidden = 4096;
  int64_t ffn = 0;  // intermediate_size
  int64_t heads = 32;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden_size / heads
  int64_t context = 32768;
  double norm_eps = 1e-6;
  double rope_theta = 1e4;
  HfWindow slides = HfWindow::never;
  int64_t window = 0;         // positions; 0: all
  bool window_asked = false;  // there is one only where use_sliding_window says so
  bool tied = false;          // tie_word_embeddings
  int64_t experts = 0;        // 0: dense
  int64_t experts_used = 0;   // of a token
  int64_t expert_ffn = 0;     // 0: intermediate_size
  int64_t first_context = 0;  // original_max_position_embeddings; 0: max_position_embeddings
  HfBiases attention_biases = HfBiases::never;
  HfBiases mlp_biases = HfBiases::never;
};

// Null where it is not known.
const HfType* find_hf_type(const std::string& name);
// "gemma3_text, llama, ..." as messages list them.
std::string known_hf_types();

}  // namespace spillway

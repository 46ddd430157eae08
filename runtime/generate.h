// Generation of one continuation: prefill, then one decode step for each token, sampled, detokenised and cut at stop
// strings.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine.h"
#include "runtime/metrics.h"
#include "runtime/sampler.h"

namespace spillway {

struct GenerateOptions {
  int max_tokens = 128;  // -1: until the end of the context
  SamplingOptions sampling;
  std::vector<std::string> stops;
  bool ignore_end = false;  // go on past the model's end tokens
  // Tokens that the sequence holds already, which penalties look at too; read during the call.
  std::span<const int32_t> before = {};
};

enum class FinishReason : uint8_t { stop, length, interrupted };
inline constexpr const char* kFinishReasonNames[] = {"stop", "length", "interrupted"};

struct Generation {
  std::string text;
  std::vector<int32_t> tokens;
  int prompt_tokens = 0;
  FinishReason finish = FinishReason::length;
  bool context_full = false;  // the length was the context's, not max_tokens
  int decode_steps = 0;
  Timings timings;
  LinkBytes prefill_bytes, decode_bytes;
  WaitSeconds waits;  // of both phases
};

struct GenerateHooks {
  std::function<void(std::string_view text)> on_text;  // whole characters, as they come
  OnProgress on_prefill;
  std::function<void(int positions)> on_step;  // after each decode step, the positions of the context that are taken
  std::function<bool()> interrupted;           // asked between tokens, and between chunks of the prompt
};

// Throws Error(usage) when the prompt is empty, or passes a context of which `used` positions are taken.
void check_prompt(std::span<const int32_t> prompt, int used, int context);

// Appends prompt and continuation to `sequence`. Throws what check_prompt throws.
Generation generate(Engine& engine, const Tokenizer& tokenizer, SequenceId sequence, std::span<const int32_t> prompt,
                    const GenerateOptions& options, const GenerateHooks& hooks);

}  // namespace spillway

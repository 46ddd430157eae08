#include "loader/text/patterns.h"

#include <fmt/format.h>

#include <array>
#include <mutex>

#include "kernels/check.h"
#include "loader/printable.h"

namespace spillway {
namespace {

enum Family { kGpt2, kSmollm, kLlama3, kQwen2, kQwen35, kTekken, kGpt4o, kDeepseekCoder, kDeepseekV3, kFamilies };

// The published patterns.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// SmolLM: each digit is a piece first, then GPT-2's pattern on what lies between. In one pass: a digit ends the text
// for the look-ahead, and no other alternative can take one.
constexpr const char* kSmollmPattern =
    R"(\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+)";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
// Marks belong to the letters before them.
constexpr const char* kQwen35Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
// Words end where capitals begin.
constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kGpt4oPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDeepseekV3Pattern =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
    R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::vector<std::string> patterns_of(Family family) {
  switch (family) {
    case kGpt2:
      return {kGpt2Pattern};
    case kSmollm:
      return {kSmollmPattern};
    case kLlama3:
      return {kLlama3Pattern};
    case kQwen2:
      return {kQwen2Pattern};
    case kQwen35:
      return {kQwen35Pattern};
    case kTekken:
      return {kTekkenPattern};
    case kGpt4o:
      return {kGpt4oPattern};
    case kDeepseekCoder:
      return {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", R"(\p{N})"};
    case kDeepseekV3:
      return {R"(\p{N}{1,3})", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", kDeepseekV3Pattern};
    case kFamilies:
      break;
  }
  SPILLWAY_CHECK(false);
  return {};
}

const std::vector<Split>& splits_of(Family family) {
  static std::array<std::once_flag, kFamilies> once;
  static std::array<std::vector<Split>, kFamilies> compiled;
  std::call_once(once[family], [&] {
    for (const std::string& pattern : patterns_of(family)) {
      compiled[family].emplace_back(std::make_shared<const Regex>(pattern, "built in", true), SplitBehavior::isolated);
    }
  });
  return compiled[family];
}

struct Known {
  const char* name;
  Family family;
  bool ignores_merges = false;
  bool adds_bos = false;
};

// Names under which converters write these (llama.cpp's list of names).
constexpr Known kKnown[] = {
    {"smollm", kSmollm},
    {"codeshell", kSmollm},
    {"exaone", kSmollm},
    {"minerva-7b", kSmollm},
    {"gpt-2", kGpt2},
    {"phi-2", kGpt2},
    {"gigachat", kGpt2},
    {"a.x-4.0", kGpt2},
    {"mellum", kGpt2},
    {"exaone4", kGpt2},
    {"mpt", kGpt2},
    {"olmo", kGpt2},
    {"jais", kGpt2},
    {"trillion", kGpt2},
    {"granite-docling", kGpt2},
    {"llama-bpe", kLlama3, true, true},
    {"llama3", kLlama3, true, true},
    {"llama-v3", kLlama3, true, true},
    {"falcon3", kLlama3, true, true},
    {"falcon-h1", kLlama3, true, true},
    {"pixtral", kLlama3, true, true},
    {"midm-2.0", kLlama3, true, true},
    {"lfm2", kLlama3, true, true},
    {"dbrx", kLlama3},
    {"smaug-bpe", kLlama3},
    {"qwen2", kQwen2},
    {"deepseek-r1-qwen", kQwen2},
    {"kormo", kQwen2},
    {"megrez", kQwen2},
    {"stablelm2", kQwen2},
    {"hunyuan", kQwen2},
    {"solar-open", kQwen2},
    {"starcoder", kSmollm},
    {"refact", kSmollm},
    {"command-r", kSmollm},
    {"chatglm-bpe", kLlama3},
    {"glm4", kLlama3, true},
    {"glm5", kLlama3, true},
    {"qwen35", kQwen35},
    {"tekken", kTekken, true, true},
    {"gpt-4o", kGpt4o},
    {"llama4", kGpt4o},
    {"kanana2", kGpt4o},
    {"deepseek-coder", kDeepseekCoder},
    {"deepseek-v3", kDeepseekV3},
    {"hunyuan-dense", kDeepseekV3},
};

}  // namespace

NamedPretokenizer named_pretokenizer(const std::string& name, const std::string& path) {
  std::string list;
  for (const Known& known : kKnown) {
    if (name == known.name) return {&splits_of(known.family), known.ignores_merges, known.adds_bos};
    list += (list.empty() ? "" : ", ") + std::string(known.name);
  }
  throw Error(ErrorKind::model, fmt::format("{}: the pre-tokenizer \"{}\" (tokenizer.ggml.pre) is not known; known: {}",
                                            path, printable(name), list));
}

const Split& gpt2_split() { return splits_of(kGpt2).front(); }

}  // namespace spillway

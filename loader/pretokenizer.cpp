#include "loader/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <memory>

#include "kernels/check.h"
#include "loader/printable.h"
#include "loader/utf8.h"

namespace spillway {
namespace {

// The published patterns, with \S as [^\s] and \s only in brackets, where it is replaced by Unicode's White_Space:
// PCRE2's own \s counts U+180E, which the tokenizers' regular expressions do not.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s])|[\s]+)";
// SmolLM: each digit is a piece first, then GPT-2's pattern on what lies between. In one pass: a digit ends the text
// for the look-ahead, and no other alternative can take one.
constexpr const char* kSmollmPattern =
    R"(\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|[\s]+(?![^\s\p{N}])|[\s]+)";
constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"([\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"([\s]*[\r\n]+|[\s]+(?![^\s])|[\s]+)";
constexpr const char* kWhiteSpace = R"(\t-\r\x{85}\p{Z})";

enum Pattern { kGpt2, kSmollm, kLlama3, kQwen2 };

struct Known {
  const char* name;
  Pattern pattern;
  bool ignores_merges = false;
  bool adds_bos = false;
};

// Names under which converters write these four (llama.cpp's list of names).
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
};

const Known& find_known(const std::string& name, const std::string& path) {
  std::string list;
  for (const Known& known : kKnown) {
    if (name == known.name) return known;
    list += (list.empty() ? "" : ", ") + std::string(known.name);
  }
  throw Error(ErrorKind::model, fmt::format("{}: the pre-tokenizer \"{}\" (tokenizer.ggml.pre) is not known; known: {}",
                                            path, printable(name), list));
}

const pcre2_code* compile(std::string pattern) {
  for (size_t at = 0; (at = pattern.find("\\s", at)) != std::string::npos;) pattern.replace(at, 2, kWhiteSpace);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &error_at, nullptr);
  SPILLWAY_CHECK(code != nullptr);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT pcre2_match interprets: slower, the same pieces
  return code;
}

const pcre2_code* code_of(Pattern pattern) {
  static const std::array<const pcre2_code*, 4> codes{compile(kGpt2Pattern), compile(kSmollmPattern),
                                                      compile(kLlama3Pattern), compile(kQwen2Pattern)};
  return codes[pattern];
}

struct MatchState {
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{pcre2_match_data_create(1, nullptr),
                                                                           pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> limits{pcre2_match_context_create(nullptr),
                                                                                   pcre2_match_context_free};
  MatchState() {
    SPILLWAY_CHECK(data && limits);
    // The patterns are ours and linear; a long run of spaces is no attack.
    pcre2_set_match_limit(limits.get(), UINT32_MAX);
    pcre2_set_depth_limit(limits.get(), UINT32_MAX);
  }
};

// The pieces of well-formed UTF-8.
void split_valid(const pcre2_code* code, std::string_view text, const MatchState& state,
                 std::vector<std::string_view>& pieces) {
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(state.data.get());
  for (size_t at = 0; at < text.size();) {
    const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK,
                                   state.data.get(), state.limits.get());
    if (result < 0)
      throw Error(ErrorKind::io, fmt::format("PCRE2 gave up on a text at byte {} (error {})", at, result));
    // The patterns take every character: nothing is left between two pieces.
    SPILLWAY_CHECK(found[0] == at && found[1] > at);
    pieces.push_back(text.substr(at, found[1] - at));
    at = found[1];
  }
}

}  // namespace

Pretokenizer::Pretokenizer(const std::string& name, const std::string& path) {
  const Known& known = find_known(name, path);
  code_ = code_of(known.pattern);
  ignores_merges_ = known.ignores_merges;
  adds_bos_ = known.adds_bos;
}

void Pretokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const MatchState state;
  for (size_t begin = 0; begin < text.size();) {
    const bool whole = first_utf8(text.substr(begin)).step == Utf8Step::whole;
    size_t end = begin;
    while (end < text.size()) {
      const Utf8Char next = first_utf8(text.substr(end));
      if ((next.step == Utf8Step::whole) != whole) break;
      end += next.bytes;
    }
    const std::string_view run = text.substr(begin, end - begin);
    if (whole) {
      split_valid(code_, run, state, pieces);
    } else {
      pieces.push_back(run);
    }
    begin = end;
  }
}

}  // namespace spillway

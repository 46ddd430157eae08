// One line of a batch's input, in the form of OpenAI's batch files, understood or refused.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/sampler.h"

namespace spillway {

// https://platform.openai.com/docs/api-reference/batch: a request, its defaults as they are documented there.
struct RequestLine {
  std::string custom_id;
  bool chat = false;         // /v1/chat/completions; else /v1/completions
  std::string model;         // as it was named: never checked, given back with the answer
  std::string variables;     // of a chat: the JSON object that its template is to see
  std::string prompt;        // of a completion ...
  std::vector<int32_t> ids;  // ... or its tokens
  std::optional<int> max_tokens;
  SamplingOptions sampling;  // `seed` is not set
  std::optional<uint64_t> seed;
  std::vector<std::string> stops;
  int logprobs = -1;  // likeliest tokens that are given beside each of the answer; -1: no logprobs
  std::optional<bool> ignore_end;
};

// Why a line is not run: what its error line says. The message names the field.
struct LineFault : std::runtime_error {
  LineFault(std::string code_, const std::string& message, std::string custom_id_ = "")
      : std::runtime_error(message), code(std::move(code_)), custom_id(std::move(custom_id_)) {}
  std::string code;       // "invalid_json", "invalid_request", "unsupported", ...
  std::string custom_id;  // where it was understood; else empty
};

inline constexpr size_t kMostLineBytes = 16 << 20;
// Of a context of so many positions: a token takes 2 to 8 bytes of most texts, and JSON may write a character in six.
// What is much longer is refused before it takes its multiple of memory.
constexpr size_t most_line_bytes(int positions) {
  return std::min(kMostLineBytes, (size_t{1} << 20) + 32 * static_cast<size_t>(positions));
}

// Takes memory for a small multiple of the bytes of `line`, whatever they are. Throws LineFault.
RequestLine read_request_line(std::string_view line);
// The custom_id alone, where the line has one that read_request_line() would understand; never throws LineFault.
std::optional<std::string> custom_id_of(std::string_view line);

}  // namespace spillway

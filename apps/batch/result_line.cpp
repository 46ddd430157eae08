#include "apps/batch/result_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "loader/text/utf8.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;

constexpr std::string_view kIdPrefix = "batch_req_";
constexpr size_t kHashDigits = 16;

std::string id_of(uint64_t input_hash, uint64_t line) {
  return fmt::format("{}{:016x}-{}", kIdPrefix, input_hash, line);
}

std::string dump(const ordered_json& json) { return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace); }

int64_t characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

// A piece that is no whole character is written as OpenAI writes it: else all of them were one and the same U+FFFD.
std::string token_text(std::string_view piece) {
  for (std::string_view rest = piece; !rest.empty();) {
    const Utf8Char next = first_utf8(rest);
    if (next.step == Utf8Step::whole) {
      rest.remove_prefix(next.bytes);
      continue;
    }
    std::string text = "bytes:";
    for (const char c : piece) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    return text;
  }
  return std::string(piece);
}

ordered_json token_json(const Tokenizer& tokenizer, int32_t id, float logprob) {
  const std::string_view piece = tokenizer.piece(id, true);
  ordered_json bytes = ordered_json::array();
  for (const char c : piece) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_text(piece)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

ordered_json chat_logprobs(const Tokenizer& tokenizer, const BatchAnswer& answer) {
  ordered_json content = ordered_json::array();
  for (size_t i = 0; i < answer.logprobs.size(); ++i) {
    const TokenLogprob& of_token = answer.logprobs[i];
    ordered_json token = token_json(tokenizer, answer.generation.tokens[i], of_token.logprob);
    ordered_json top = ordered_json::array();
    for (const auto& [id, logprob] : of_token.top) top.push_back(token_json(tokenizer, id, logprob));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

// The older form, by columns.
ordered_json completion_logprobs(const Tokenizer& tokenizer, const BatchAnswer& answer) {
  ordered_json tokens = ordered_json::array(), own = tokens, top = tokens, offsets = tokens;
  int64_t offset = 0;
  for (size_t i = 0; i < answer.logprobs.size(); ++i) {
    const std::string_view piece = tokenizer.piece(answer.generation.tokens[i], true);
    tokens.push_back(token_text(piece));
    own.push_back(answer.logprobs[i].logprob);
    offsets.push_back(offset);
    offset += characters(piece);
    ordered_json likeliest = ordered_json::object();
    for (const auto& [id, logprob] : answer.logprobs[i].top) {
      likeliest.emplace(token_text(tokenizer.piece(id, true)), logprob);  // of two of one text the likelier
    }
    top.push_back(std::move(likeliest));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(own)},
          {"top_logprobs", std::move(top)},
          {"text_offset", std::move(offsets)}};
}

// Of a line that was written, the few facts at its top, whatever the answer has in it.
class HeadReader : public nlohmann::json_sax<ordered_json> {
 public:
  bool null() override {
    if (depth_ == 1 && key_ == "response") no_response_ = true;
    return true;
  }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t& text) override {
    if (depth_ == 1 && key_ == "id") id_ = text;
    return true;
  }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override {
    ++depth_;
    return true;
  }
  bool key(string_t& text) override {
    if (depth_ == 1) key_ = text;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(size_t) override { return start_object(0); }
  bool end_array() override { return end_object(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

  const std::string& id() const { return id_; }
  bool no_response() const { return no_response_; }

 private:
  int depth_ = 0;
  std::string key_, id_;
  bool no_response_ = false;
};

template <typename T>
bool read_number(std::string_view text, int base, T& value) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return problem == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string ResultLines::answer(const RequestHead& head, const BatchAnswer& answer, int64_t created) const {
  const Generation& generation = answer.generation;
  const std::string id = id_of(input_hash_, head.line);
  ordered_json choice{{"index", 0}};
  if (head.chat) {
    choice["message"] = {{"role", "assistant"}, {"content", generation.text}, {"refusal", nullptr}};
  } else {
    choice["text"] = generation.text;
  }
  choice["logprobs"] = nullptr;
  if (!answer.logprobs.empty()) {
    choice["logprobs"] = head.chat ? chat_logprobs(tokenizer_, answer) : completion_logprobs(tokenizer_, answer);
  }
  choice["finish_reason"] = kFinishReasonNames[static_cast<int>(generation.finish)];
  const size_t answer_tokens = generation.tokens.size(), prompt_tokens = static_cast<size_t>(generation.prompt_tokens);
  ordered_json body{{"id", (head.chat ? "chatcmpl-" : "cmpl-") + id.substr(kIdPrefix.size())},
                    {"object", head.chat ? "chat.completion" : "text_completion"},
                    {"created", created},
                    {"model", head.model},
                    {"system_fingerprint", fingerprint_},
                    {"choices", ordered_json::array({std::move(choice)})},
                    {"usage",
                     {{"prompt_tokens", prompt_tokens},
                      {"completion_tokens", answer_tokens},
                      {"total_tokens", prompt_tokens + answer_tokens}}}};
  return dump({{"id", id},
               {"custom_id", head.custom_id},
               {"response", {{"status_code", 200}, {"request_id", id}, {"body", std::move(body)}}},
               {"error", nullptr}});
}

std::string ResultLines::fault(uint64_t input_hash, uint64_t line, const LineFault& fault) {
  const ordered_json custom_id = fault.custom_id.empty() ? ordered_json() : ordered_json(fault.custom_id);
  return dump({{"id", id_of(input_hash, line)},
               {"custom_id", custom_id},
               {"response", nullptr},
               {"error", {{"code", fault.code}, {"message", fault.what()}, {"line", line}}}});
}

std::optional<ResultHead> read_result_line(std::string_view text) {
  HeadReader reader;
  if (!ordered_json::sax_parse(text.begin(), text.end(), &reader)) return std::nullopt;
  const std::string_view id = reader.id();
  ResultHead head{.failed = reader.no_response()};
  const size_t dash = kIdPrefix.size() + kHashDigits;
  const bool ours = id.starts_with(kIdPrefix) && id.size() > dash + 1 && id[dash] == '-' &&
                    read_number(id.substr(kIdPrefix.size(), kHashDigits), 16, head.input_hash) &&
                    read_number(id.substr(dash + 1), 10, head.line) && head.line > 0;
  return ours ? std::optional(head) : std::nullopt;
}

}  // namespace spillway

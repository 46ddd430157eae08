// Lines of a batch: what is understood, what is refused, and in which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>

#include "apps/batch/line_file.h"
#include "apps/batch/request_line.h"
#include "apps/batch/result_line.h"
#include "kernels/check.h"
#include "tests/fuzz/batch_line_case.h"
#include "tests/fuzz/corpus.h"
#include "tests/fuzz/memory_file.h"

namespace spillway {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string line(const json& body, const std::string& url = "/v1/chat/completions") {
  return json{{"custom_id", "a"}, {"method", "POST"}, {"url", url}, {"body", body}}.dump();
}

std::string chat(json body) {
  if (!body.contains("messages")) body["messages"] = {{{"role", "user"}, {"content", "Hi"}}};
  return line(body);
}

std::string completion(json body) {
  if (!body.contains("prompt")) body["prompt"] = "Once";
  return line(body, "/v1/completions");
}

LineFault fault_of(const std::string& text) {
  try {
    read_request_line(text);
  } catch (const LineFault& fault) {
    return fault;
  }
  return {"none", "it was understood: " + text};
}

TEST(BatchLine, ChatIsUnderstood) {
  const RequestLine request = read_request_line(chat(
      {{"model", "m"},
       {"messages",
        {{{"role", "developer"}, {"content", {{{"type", "text"}, {"text", "S"}}, {{"type", "text"}, {"text", "T"}}}}},
         {{"role", "user"}, {"content", "Q\u00e9"}}}},
       {"max_completion_tokens", 7},
       {"temperature", 0},
       {"top_p", 0.5},
       {"seed", -1},
       {"stop", {"x", "y"}},
       {"logprobs", true},
       {"top_logprobs", 3},
       {"user", "u"},
       {"metadata", {{"k", "v"}}},
       {"n", 1},
       {"stream", false},
       {"frequency_penalty", 0.0},
       {"tools", nullptr}}));
  EXPECT_TRUE(request.chat);
  EXPECT_EQ(request.custom_id, "a");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.temp, 0);
  EXPECT_EQ(request.sampling.top_p, 0.5f);
  EXPECT_EQ(request.seed, UINT64_MAX);
  EXPECT_THAT(request.stops, ElementsAre("x", "y"));
  EXPECT_EQ(request.logprobs, 3);
  const json variables = json::parse(request.variables);
  EXPECT_EQ(variables["messages"],
            json::parse(R"([{"role": "system", "content": "S\nT"}, {"role": "user", "content": "Qé"}])"));
  EXPECT_EQ(variables["add_generation_prompt"], true);
  EXPECT_FALSE(variables.contains("tools"));
}

TEST(BatchLine, DefaultsAreOpenAis) {
  const RequestLine request = read_request_line(completion({}));
  EXPECT_FALSE(request.chat);
  EXPECT_EQ(request.prompt, "Once");
  EXPECT_FALSE(request.max_tokens.has_value());
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_EQ(request.sampling.temp, 1);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.min_p, 0);
  EXPECT_EQ(request.logprobs, -1);
}

TEST(BatchLine, ToolsReachTheTemplateInTheirOrderAndCallsAreOpened) {
  const std::string text = R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages":
    [{"role": "user", "content": "Q"}, {"role": "assistant", "content": null, "tool_calls": [{"type": "function",
      "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}, {"type": "function", "function": {"name": "g",
      "arguments": "no JSON"}}]}, {"role": "tool", "content": "3"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}], "chat_template_kwargs":
    {"enable_thinking": false}}})";
  std::string one_line = text;
  std::replace(one_line.begin(), one_line.end(), '\n', ' ');
  const RequestLine request = read_request_line(one_line);
  EXPECT_THAT(request.variables,
              HasSubstr(R"("tools":[{"type":"function","function":{"name":"f","description":"d"}}])"));
  EXPECT_THAT(request.variables, HasSubstr(R"("content":null,"tool_calls")")) << "templates ask whether it is none";
  EXPECT_THAT(request.variables, HasSubstr(R"("arguments":{"z":1,"a":2})"));
  EXPECT_THAT(request.variables, HasSubstr(R"("arguments":"no JSON")"));
  EXPECT_THAT(request.variables, HasSubstr(R"("enable_thinking":false)"));
  const json none{{"tools", {{{"type", "function"}}}}, {"tool_choice", "none"}};
  EXPECT_THAT(read_request_line(chat(none)).variables, ::testing::Not(HasSubstr("tools")));
  // Templates ask whether there is a list, and get what transformers would give them.
  EXPECT_THAT(read_request_line(chat({{"tools", json::array()}})).variables, HasSubstr(R"("tools":[])"));
}

TEST(BatchLine, PromptsMayBeIds) {
  EXPECT_THAT(read_request_line(completion({{"prompt", {1, 2, 3}}})).ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(read_request_line(completion({{"prompt", {{4, 5}}}})).ids, ElementsAre(4, 5));
  EXPECT_EQ(read_request_line(completion({{"prompt", {"one"}}})).prompt, "one");
}

TEST(BatchLine, WhatWouldChangeTheAnswerIsRefusedByName) {
  const std::pair<const char*, json> cases[] = {{"n", 2},
                                                {"best_of", 3},
                                                {"stream", true},
                                                {"frequency_penalty", 0.5},
                                                {"logit_bias", {{"5", 1}}},
                                                {"response_format", {{"type", "json_object"}}},
                                                {"tool_choice", "required"},
                                                {"reasoning_effort", "low"},
                                                {"temprature", 0.5}};
  for (const auto& [name, value] : cases) {
    const LineFault fault = fault_of(chat({{name, value}}));
    EXPECT_EQ(fault.code, "unsupported") << name;
    EXPECT_EQ(fault.custom_id, "a") << name;
    EXPECT_THAT(fault.what(), HasSubstr(std::string("body.") + name));
  }
  EXPECT_EQ(fault_of(chat({{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}})).code,
            "unsupported");
  EXPECT_EQ(fault_of(completion({{"prompt", {"a", "b"}}})).code, "unsupported");
}

TEST(BatchLine, WrongTypesAndRangesAreRefusedByName) {
  const std::pair<const char*, json> cases[] = {{"temperature", 2.5},
                                                {"temperature", "hot"},
                                                {"top_p", -0.1},
                                                {"max_tokens", 0},
                                                {"max_tokens", 1.5},
                                                {"max_tokens", 1e12},
                                                {"seed", "x"},
                                                {"stop", ""},
                                                {"stop", {"a", 1}},
                                                {"logprobs", 1},
                                                {"top_logprobs", 2},
                                                {"model", 1},
                                                {"messages", "Hi"},
                                                {"messages", json::array()},
                                                {"messages", {{{"role", 1}, {"content", "x"}}}},
                                                {"messages", {{{"role", "user"}}}}};
  for (const auto& [name, value] : cases) {
    const LineFault fault = fault_of(chat({{name, value}}));
    EXPECT_EQ(fault.code, "invalid_request") << name << " " << value;
    EXPECT_THAT(fault.what(), HasSubstr(std::string("body.") + name)) << value;
  }
  EXPECT_EQ(fault_of(chat({{"max_tokens", 5}, {"max_completion_tokens", 6}})).code, "invalid_request");
  EXPECT_EQ(fault_of(completion({{"prompt", {1, -2}}})).code, "invalid_request");
  EXPECT_EQ(fault_of(completion({{"prompt", nullptr}})).code, "invalid_request");
}

TEST(BatchLine, TheFrameIsChecked) {
  EXPECT_EQ(fault_of("{").code, "invalid_json");
  EXPECT_EQ(fault_of("[1]").code, "invalid_json");
  EXPECT_EQ(fault_of("{\"custom_id\": \"\xff\"}").code, "invalid_json");
  EXPECT_EQ(fault_of(R"({"custom_id": "\ud800"})").code, "invalid_json");
  EXPECT_EQ(fault_of(R"({"custom_id": "", "method": "POST"})").code, "missing_custom_id");
  EXPECT_EQ(fault_of(R"({"custom_id": 7, "method": "POST"})").code, "missing_custom_id");
  EXPECT_EQ(fault_of(line({{"input", "x"}}, "/v1/embeddings")).code, "invalid_url");
  EXPECT_THAT(fault_of(R"({"custom_id": "a", "method": "GET"})").what(), HasSubstr("method"));
  EXPECT_THAT(fault_of(R"({"custom_id": "a", "method": "POST", "url": "/v1/completions"})").what(), HasSubstr("body"));
}

TEST(BatchLine, DeepAndManyAreRefusedBeforeTheyTakeMemory) {
  EXPECT_THAT(fault_of(std::string(1 << 20, '[')).what(), HasSubstr("nested"));
  std::string small = "[";
  for (int i = 0; i < 1 << 20; ++i) small += "{},";
  EXPECT_THAT(fault_of(small + "0]").what(), HasSubstr("small values"));
  json many;
  for (int i = 0; i < 1000; ++i) many[std::to_string(i)] = 0;
  EXPECT_THAT(fault_of(many.dump()).what(), HasSubstr("keys"));
  json ids = json::array();
  for (int i = 0; i < 200000; ++i) ids.push_back(10000 + i % 1000);
  EXPECT_EQ(read_request_line(completion({{"prompt", ids}})).ids.size(), 200000u) << "a long prompt is none of these";
}

TEST(BatchLine, ResultsSayWhichLineTheyAnswer) {
  const std::string fault = ResultLines::fault(0xabc, 17, LineFault("unsupported", "no \"quotes\"\n", "id"));
  const json parsed = json::parse(fault);
  EXPECT_EQ(parsed["custom_id"], "id");
  EXPECT_TRUE(parsed["response"].is_null());
  EXPECT_EQ(parsed["error"]["code"], "unsupported");
  EXPECT_EQ(parsed["error"]["line"], 17);
  const auto head = read_result_line(fault);
  ASSERT_TRUE(head);
  EXPECT_EQ(head->line, 17u);
  EXPECT_EQ(head->input_hash, 0xabcu);
  EXPECT_TRUE(head->failed);
  EXPECT_TRUE(json::parse(ResultLines::fault(1, 1, LineFault("c", "m")))["custom_id"].is_null());
  for (size_t bytes = 0; bytes < fault.size(); ++bytes) EXPECT_FALSE(read_result_line(fault.substr(0, bytes))) << bytes;
  EXPECT_FALSE(read_result_line(R"({"id": "other", "response": null})"));
  EXPECT_FALSE(read_result_line(R"({"body": {"id": "batch_req_0000000000000abc-3"}})"));
  const auto done = read_result_line(R"({"id": "batch_req_0000000000000abc-3", "response": {"response": null}})");
  ASSERT_TRUE(done);
  EXPECT_FALSE(done->failed);
}

// Two tokens that are halves of a character, a whole one, and one whose text is another's.
class Halves : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view, bool, bool) const override { return {}; }
  std::string_view piece(int32_t id, bool) const override {
    static constexpr std::string_view kPieces[] = {"\xf0\x9f", "\x98\x80", "\xc3\xa9", "\xc3\xa9"};
    return kPieces[id];
  }
  int vocab() const override { return 4; }
  int32_t bos() const override { return -1; }
  bool is_end(int32_t) const override { return false; }
};

TEST(BatchLine, HalvesOfCharactersHaveNamesOfTheirOwn) {
  const Halves tokenizer;
  const ResultLines results(1, tokenizer, "m");
  BatchAnswer answer;
  answer.generation.tokens = {0, 2};
  TokenLogprob first{.logprob = -1};
  first.top = {{0, -1.0f}, {1, -2.0f}, {2, -3.0f}, {3, -4.0f}};
  answer.logprobs = {first, TokenLogprob{.logprob = -5}};
  const auto logprobs = [&](bool chat) {
    return json::parse(results.answer({.line = 1, .custom_id = "a", .chat = chat}, answer,
                                      0))["response"]["body"]["choices"][0]["logprobs"];
  };
  const json columns = logprobs(false);
  EXPECT_EQ(columns["tokens"], json({"bytes:\\xf0\\x9f", "\xc3\xa9"}));
  EXPECT_EQ(columns["top_logprobs"][0],
            json({{"bytes:\\xf0\\x9f", -1.0}, {"bytes:\\x98\\x80", -2.0}, {"\xc3\xa9", -3.0}}));
  const std::string text = results.answer({.line = 1, .custom_id = "a"}, answer, 0);
  EXPECT_EQ(text.find("\xc3\xa9\":"), text.rfind("\xc3\xa9\":")) << "a key is there once: " << text;
  const json chat = logprobs(true)["content"][0];
  EXPECT_EQ(chat["token"], "bytes:\\xf0\\x9f");
  EXPECT_EQ(chat["bytes"], json({0xf0, 0x9f}));
  EXPECT_EQ(chat["top_logprobs"][1]["token"], "bytes:\\x98\\x80");
}

TEST(BatchLine, LinesEndAndAreBlankWhateverTheirLength) {
  const std::string text =
      "\xef\xbb\xbf{1}\r\n\n" + std::string(3 << 20, ' ') + "\n" + std::string(3 << 20, 'x') + "\n{2}";
  const MemoryFile memory(std::as_bytes(std::span(text)));
  LineFile file("-i", memory.path(), 1 << 20);
  const Survey survey = file.survey();
  EXPECT_EQ(survey.lines, 5u);
  EXPECT_EQ(survey.requests, 3u);
  EXPECT_EQ(survey.bytes, text.size());
  for (const size_t most : {size_t{1} << 20, size_t{100}}) {
    file.rewind();
    file.set_most_line_bytes(most);
    std::vector<std::pair<uint64_t, std::string>> lines;
    for (Line line; file.next(line);) lines.emplace_back(line.number, line.too_long ? "too long" : line.text);
    EXPECT_THAT(lines, ElementsAre(std::pair(1, "{1}\r"), std::pair(4, "too long"), std::pair(5, "{2}")));
    EXPECT_EQ(file.so_far(), survey);
  }
}

TEST(BatchLine, BlanksAfterAByteOrderMarkAreBlankHoweverMany) {
  for (const size_t blanks : {size_t{0}, size_t{10}, size_t{3} << 19}) {
    const std::string text = "\xef\xbb\xbf" + std::string(blanks, ' ') + "\n{2}";
    const MemoryFile memory(std::as_bytes(std::span(text)));
    LineFile file("-i", memory.path(), 16 << 20);
    const Survey survey = file.survey();
    EXPECT_EQ(survey.requests, 1u);
    file.set_most_line_bytes(100);
    Line line;
    ASSERT_TRUE(file.next(line));
    EXPECT_EQ(line.number, 2u);
    EXPECT_EQ(line.text, "{2}");
    EXPECT_FALSE(file.next(line));
    EXPECT_EQ(file.so_far(), survey);
  }
}

TEST(BatchLine, AFileThatChangesIsRefusedAndNothingBeyondItsSurveyIsRead) {
  const std::string path = std::filesystem::temp_directory_path() / ("spillway-lines-" + std::to_string(getpid()));
  const std::string before = "{1}\n{2}\n";
  const auto read = [&](const std::string& after, bool as_old) {
    std::ofstream(path, std::ios::trunc) << before;
    std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
    const auto time = std::filesystem::last_write_time(path);
    LineFile file("-i", path, 100);
    file.survey();
    std::ofstream(path, std::ios::trunc) << after;
    if (as_old) std::filesystem::last_write_time(path, time);
    std::string lines;
    try {
      for (Line line; file.next(line);) lines += line.text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), HasSubstr("-i " + path + ": it changed while it was read"));
      return "refused after " + lines;
    }
    return lines;
  };
  EXPECT_EQ(read(before + "{3}\n", false), "refused after ");
  EXPECT_EQ(read(before + "{3}\n", true), "refused after ") << "by its size";
  EXPECT_EQ(read("{1}\n", false), "refused after ");
  EXPECT_EQ(read("{3}\n{4}\n", false), "refused after ") << "by its time";
  EXPECT_EQ(read(before, true), "{1}{2}");
  std::filesystem::remove(path);
}

TEST(BatchLine, TheFuzzersCorpus) { EXPECT_EQ(run_corpus("batch_line", 24, try_batch_lines), 14); }

}  // namespace
}  // namespace spillway

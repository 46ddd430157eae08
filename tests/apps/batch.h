// spillway batch on the tiny model, each test in a folder of its own.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/apps/cli.h"

namespace spillway {

class Batch : public Cli {
 protected:
  static std::string request(const std::string& id, const nlohmann::json& body,
                             const std::string& url = "/v1/completions") {
    return nlohmann::json{{"custom_id", id}, {"method", "POST"}, {"url", url}, {"body", body}}.dump() + "\n";
  }
  static std::string numbered(int count, int tokens) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text +=
          request("r" + std::to_string(i),
                  {{"prompt", "spill " + std::to_string(i)}, {"max_tokens", 1 + (i * 7) % tokens}, {"temperature", 0}});
    }
    return text;
  }
  std::string in() const { return (folder_ / "in.jsonl").string(); }
  std::string out(const std::string& name = "out.jsonl") const { return (folder_ / name).string(); }
  std::vector<std::string> command(std::vector<std::string> more = {}, const std::string& name = "out.jsonl") const {
    std::vector<std::string> words{"batch", "-m", model_, "-i", in(), "-o", out(name), "--deterministic"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static std::vector<nlohmann::json> lines_of(const std::string& path) {
    std::istringstream text(read_file(path));
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  // The text of each answer, or the code of its error, by custom_id (or the line where there is none); a name twice
  // fails the test.
  static std::map<std::string, std::string> answers(const std::string& path) {
    std::map<std::string, std::string> found;
    for (const nlohmann::json& line : lines_of(path)) {
      const bool failed = line["response"].is_null();
      const nlohmann::json* choice = failed ? nullptr : &line["response"]["body"]["choices"][0];
      const bool nameless = line["custom_id"].is_null() || (failed && line["error"]["code"] == "duplicate_custom_id");
      const std::string name = nameless ? "line " + line["error"]["line"].dump() : line["custom_id"].get<std::string>();
      const std::string text = failed                     ? line["error"]["code"].get<std::string>()
                               : choice->contains("text") ? (*choice)["text"].get<std::string>()
                                                          : (*choice)["message"]["content"].get<std::string>();
      EXPECT_TRUE(found.emplace(name, text).second) << name << " is answered twice";
    }
    return found;
  }
};

}  // namespace spillway

// render_template TEMPLATE CASES: renders a chat template for each of a JSON array of variables, and prints a JSON
// array of
// {"text"} or {"error"}. tests/oracle/compare_templates.py compares them with jinja2.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/check.h"
#include "loader/chat_template.h"

namespace {

std::string whole_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

int main(int count, char** arguments) {
  using namespace spillway;
  using nlohmann::ordered_json;
  if (count != 3) {
    std::fprintf(stderr, "usage: render_template TEMPLATE CASES\n");
    return 2;
  }
  ordered_json results = ordered_json::array();
  try {
    Checkpoint checkpoint;  // of special tokens the cases speak themselves
    checkpoint.meta["tokenizer.ggml.model"] = std::string("gpt2");
    const ChatTemplate chat = ChatTemplate::parse(whole_file(arguments[1]), arguments[1], checkpoint);
    for (const ordered_json& one : ordered_json::parse(whole_file(arguments[2]))) {
      try {
        results.push_back({{"text", chat.render_json(one.dump())}});
      } catch (const Error& error) {
        results.push_back({{"error", error.what()}});
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  std::printf("%s\n", results.dump(-1, ' ', false, ordered_json::error_handler_t::replace).c_str());
}

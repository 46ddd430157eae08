#include "loader/chat_template.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "loader/chat_template_source.h"
#include "loader/jinja/interpreter.h"
#include "loader/jinja/parser.h"

namespace spillway {
namespace {

using jinja::Value;
using nlohmann::ordered_json;

Value value_of(const ordered_json& json) {
  if (json.is_boolean()) return Value(json.get<bool>());
  if (json.is_number_unsigned() && json.get<uint64_t>() > INT64_MAX) return Value(json.get<double>());
  if (json.is_number_integer()) return Value(json.get<int64_t>());
  if (json.is_number()) return Value(json.get<double>());
  if (json.is_string()) return Value(json.get<std::string>());
  if (json.is_array()) {
    jinja::List items;
    for (const ordered_json& item : json) items.push_back(value_of(item));
    return Value::list(std::move(items));
  }
  if (json.is_object()) {
    jinja::Dict items;
    for (const auto& [key, item] : json.items()) items.emplace_back(Value(key), value_of(item));
    return Value::dict(std::move(items));
  }
  return Value::none();
}

// Errors of the template itself become those of `kind`.
template <typename Do>
auto blaming(ErrorKind kind, const Do& work) {
  try {
    return work();
  } catch (const Error& error) {
    throw Error(error.kind() == ErrorKind::model ? kind : error.kind(), error.what());
  }
}

}  // namespace

struct ChatTemplate::Parsed {
  std::string name;
  size_t source_bytes;
  jinja::Nodes nodes;
  std::vector<std::pair<std::string, std::string>> special;  // bos_token and so on
  ErrorKind fault;                                           // what an error of the template is

  std::string render(jinja::Dict globals) const {
    for (const auto& [key, text] : special) globals.emplace_back(Value(key), Value(text));
    int64_t bytes = static_cast<int64_t>(source_bytes);
    for (const auto& [key, value] : globals) bytes += jinja::weight_of(value);
    jinja::RenderLimits limits;
    limits.steps += 256 * bytes;
    limits.output_bytes += 16 * bytes;
    return blaming(fault, [&] { return jinja::render(nodes, globals, name, limits); });
  }
};

ChatTemplate ChatTemplate::made(const std::string& source, const std::string& name, const Checkpoint& checkpoint,
                                ErrorKind fault) {
  if (source.size() > kMostBytes) {
    throw Error(fault,
                fmt::format("{} has {} bytes; the longest that is read has {}", name, source.size(), kMostBytes));
  }
  ChatTemplate result;
  jinja::Nodes nodes = blaming(fault, [&] { return jinja::parse(source, name); });
  result.parsed_ = std::make_shared<const Parsed>(
      Parsed{name, source.size(), std::move(nodes), chat_special_tokens(checkpoint), fault});
  return result;
}

ChatTemplate ChatTemplate::parse(const std::string& source, const std::string& name, const Checkpoint& checkpoint) {
  return made(source, name, checkpoint, ErrorKind::usage);
}

ChatTemplate ChatTemplate::from(const Checkpoint& checkpoint) {
  const std::string name = fmt::format("{}: the chat template", checkpoint.path());
  const std::string source = chat_template_source(checkpoint);
  if (!source.empty()) return made(source, name, checkpoint, ErrorKind::model);
  throw Error(ErrorKind::model,
              fmt::format("{}: the model brings no chat template; --template FILE or NAME takes one ({})",
                          checkpoint.path(), fmt::join(built_in_names(), ", ")));
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  jinja::List list;
  for (const ChatMessage& message : messages) {
    list.push_back(Value::dict({{"role", message.role}, {"content", message.content}}));
  }
  return parsed_->render({{"messages", Value::list(std::move(list))},
                          {"tools", Value::none()},
                          {"documents", Value::none()},
                          {"add_generation_prompt", add_generation_prompt}});
}

std::string ChatTemplate::render_json(const std::string& variables) const {
  ordered_json json;
  try {
    json = ordered_json::parse(variables);
  } catch (const ordered_json::exception& error) {
    throw Error(ErrorKind::usage, fmt::format("the variables of a chat template are no JSON: {}", error.what()));
  }
  if (!json.is_object()) throw Error(ErrorKind::usage, "the variables of a chat template are no JSON object");
  jinja::Dict globals;
  for (const char* key : {"tools", "documents"}) {
    if (!json.contains(key)) globals.emplace_back(Value(key), Value::none());
  }
  for (const auto& [key, item] : json.items()) globals.emplace_back(Value(key), value_of(item));
  return parsed_->render(std::move(globals));
}

}  // namespace spillway

#include "apps/batch/request_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "apps/batch/bounded_json.h"
#include "loader/printable.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;

constexpr int kMostTokens = 1 << 28;
constexpr size_t kMostStops = 16;
constexpr int kMostTopLogprobs = 20;

[[noreturn]] void refuse(const std::string& message) { throw LineFault("invalid_request", message); }

// A field of the body that changes no answer.
constexpr const char* kHarmless[] = {"user",       "metadata",          "store",           "service_tier",
                                     "prediction", "safety_identifier", "prompt_cache_key"};

// Fields that would change the answer and are served at one value alone: that of their default.
struct OnlyAt {
  const char* name;
  const char* value;  // JSON
};
constexpr OnlyAt kOnlyAt[] = {{"n", "1"},
                              {"best_of", "1"},
                              {"echo", "false"},
                              {"stream", "false"},
                              {"suffix", "\"\""},
                              {"frequency_penalty", "0"},
                              {"presence_penalty", "0"},
                              {"logit_bias", "{}"},
                              {"response_format", R"({"type":"text"})"},
                              {"modalities", R"(["text"])"},
                              {"parallel_tool_calls", "true"},
                              {"functions", "[]"},
                              {"min_tokens", "0"}};

// The fields of a body, each asked for by name; null is as good as absent, as OpenAI has it.
class Body {
 public:
  explicit Body(const ordered_json& json) : json_(json) {
    if (!json.is_object()) refuse("body: an object is wanted");
  }

  const ordered_json* find(const char* name) {
    asked_.emplace_back(name);
    const auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  std::optional<double> number(const char* name, double low, double high) {
    const ordered_json* value = find(name);
    if (value == nullptr) return std::nullopt;
    const double number = value->is_number() ? value->get<double>() : NAN;
    if (!(number >= low && number <= high)) {
      refuse(fmt::format("body.{}: a number from {:g} to {:g} is wanted", name, low, high));
    }
    return number;
  }
  std::optional<int> integer(const char* name, int low, int high) {
    const ordered_json* value = find(name);
    if (value == nullptr) return std::nullopt;
    const bool fits = value->is_number_integer() &&
                      (!value->is_number_unsigned() || value->get<uint64_t>() <= std::numeric_limits<int>::max()) &&
                      value->get<int64_t>() >= low && value->get<int64_t>() <= high;
    if (!fits) refuse(fmt::format("body.{}: a whole number from {} to {} is wanted", name, low, high));
    return value->get<int>();
  }
  std::optional<bool> boolean(const char* name) {
    const ordered_json* value = find(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) refuse(fmt::format("body.{}: true or false is wanted", name));
    return value->get<bool>();
  }
  std::string text(const char* name) {
    const ordered_json* value = find(name);
    if (value == nullptr) return "";
    if (!value->is_string()) refuse(fmt::format("body.{}: a string is wanted", name));
    return value->get<std::string>();
  }
  // What nobody asked for may change the answer.
  void refuse_the_rest() {
    for (const OnlyAt& only : kOnlyAt) {
      const ordered_json* value = find(only.name);
      if (value != nullptr && *value != ordered_json::parse(only.value)) {
        throw LineFault("unsupported", fmt::format("body.{}: only {} is served", only.name, only.value));
      }
    }
    for (const auto& [name, value] : json_.items()) {
      const bool known = std::find(asked_.begin(), asked_.end(), name) != asked_.end() ||
                         std::find(std::begin(kHarmless), std::end(kHarmless), name) != std::end(kHarmless);
      if (!known && !value.is_null()) {
        throw LineFault("unsupported",
                        fmt::format("body.{}: not known, and it might change the answer", printable(name)));
      }
    }
  }

 private:
  const ordered_json& json_;
  std::vector<std::string> asked_;
};

// A text, or text parts, which are joined by line ends as llama.cpp and vLLM do for templates that take strings.
std::string text_of(const ordered_json& content, size_t message) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) refuse(fmt::format("body.messages[{}].content: a string or text parts are wanted", message));
  std::string text;
  for (const ordered_json& part : content) {
    const bool is_text = part.is_object() && part.value("type", ordered_json()) == "text" && part.contains("text") &&
                         part["text"].is_string();
    if (!is_text) {
      throw LineFault("unsupported",
                      fmt::format("body.messages[{}].content: only parts {{\"type\": \"text\", \"text\": \"...\"}} are "
                                  "served",
                                  message));
    }
    if (&part != &content.front()) text += "\n";
    text += part["text"].get<std::string>();
  }
  return text;
}

// Templates print the arguments of a call as an object; OpenAI has them as the text of one.
void open_arguments(ordered_json& message, size_t index) {
  ordered_json& calls = message["tool_calls"];
  const auto wrong = [&] { refuse(fmt::format("body.messages[{}].tool_calls: functions called are wanted", index)); };
  if (!calls.is_array()) wrong();
  for (ordered_json& call : calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) wrong();
    ordered_json& function = call["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    try {
      ordered_json opened = parse_bounded_json(function["arguments"].get_ref<const std::string&>());
      if (opened.is_object()) function["arguments"] = std::move(opened);
    } catch (const LineFault&) {
      continue;  // what a model wrote need not be JSON: it stays a text
    }
  }
}

ordered_json messages_of(Body& body) {
  const ordered_json* given = body.find("messages");
  if (given == nullptr || !given->is_array() || given->empty()) refuse("body.messages: a list of messages is wanted");
  ordered_json messages = *given;
  for (size_t i = 0; i < messages.size(); ++i) {
    ordered_json& message = messages[i];
    if (!message.is_object()) refuse(fmt::format("body.messages[{}]: an object is wanted", i));
    const bool has_role = message.contains("role") && message["role"].is_string();
    if (!has_role) refuse(fmt::format("body.messages[{}].role: a string is wanted", i));
    if (message["role"] == "developer") message["role"] = "system";  // its name of late; templates know the old one
    const bool calls = message.contains("tool_calls") && !message["tool_calls"].is_null();
    const bool silent = !message.contains("content") || message["content"].is_null();
    if (silent && !calls) refuse(fmt::format("body.messages[{}].content: a string or text parts are wanted", i));
    // An absent or a null one stays what it is: templates ask for either.
    if (!silent) message["content"] = text_of(message["content"], i);
    if (calls) open_arguments(message, i);
  }
  return messages;
}

// What the template is to see beside the messages.
void add_tools(Body& body, ordered_json& variables) {
  const ordered_json* tools = body.find("tools");
  const ordered_json* choice = body.find("tool_choice");
  if (tools != nullptr && !tools->is_array()) refuse("body.tools: a list is wanted");
  if (choice != nullptr && *choice != "auto" && *choice != "none") {
    throw LineFault("unsupported", "body.tool_choice: only \"auto\" and \"none\" are served");
  }
  const bool wanted = tools != nullptr && (choice == nullptr || *choice == "auto");
  if (wanted) variables["tools"] = *tools;
  const ordered_json* more = body.find("chat_template_kwargs");
  if (more == nullptr) return;
  if (!more->is_object()) refuse("body.chat_template_kwargs: an object is wanted");
  for (const auto& [name, value] : more->items()) {
    if (name == "messages") refuse("body.chat_template_kwargs: the messages have a field of their own");
    variables[name] = value;
  }
}

void read_chat(Body& body, RequestLine& line) {
  ordered_json variables{{"messages", messages_of(body)}, {"add_generation_prompt", true}};
  add_tools(body, variables);
  line.variables = variables.dump();
  const bool logprobs = body.boolean("logprobs").value_or(false);
  const std::optional<int> top = body.integer("top_logprobs", 0, kMostTopLogprobs);
  if (top && !logprobs) refuse("body.top_logprobs: it needs \"logprobs\": true");
  if (logprobs) line.logprobs = top.value_or(0);
  const std::optional<int> most = body.integer("max_completion_tokens", 1, kMostTokens);
  line.max_tokens = body.integer("max_tokens", 1, kMostTokens);
  if (most && line.max_tokens && *most != *line.max_tokens) {
    refuse("body.max_tokens and body.max_completion_tokens differ");
  }
  if (most) line.max_tokens = most;
}

// A text or ids, alone or as the only one of a list.
void read_prompt(const ordered_json& prompt, RequestLine& line, bool outermost = true) {
  const char* wanted = "body.prompt: one text, or one list of token ids, is wanted";
  if (prompt.is_string()) {
    line.prompt = prompt.get<std::string>();
    return;
  }
  if (!prompt.is_array() || prompt.empty()) refuse(wanted);
  if (outermost && !prompt.front().is_number()) {
    if (prompt.size() > 1) throw LineFault("unsupported", "body.prompt: only one prompt a line is served");
    return read_prompt(prompt.front(), line, false);
  }
  for (const ordered_json& id : prompt) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > std::numeric_limits<int32_t>::max()) refuse(wanted);
    line.ids.push_back(id.get<int32_t>());
  }
}

void read_completion(Body& body, RequestLine& line) {
  const ordered_json* prompt = body.find("prompt");
  if (prompt == nullptr) refuse("body.prompt: it is missing");
  read_prompt(*prompt, line);
  line.logprobs = body.integer("logprobs", 0, kMostTopLogprobs).value_or(-1);
  line.max_tokens = body.integer("max_tokens", 1, kMostTokens);
}

void read_stops(Body& body, RequestLine& line) {
  const ordered_json* stop = body.find("stop");
  if (stop == nullptr) return;
  const char* wanted = "body.stop: a text, or up to 16 of them, is wanted, none of them empty";
  const auto add = [&](const ordered_json& text) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty()) refuse(wanted);
    line.stops.push_back(text.get<std::string>());
  };
  if (!stop->is_array()) return add(*stop);
  if (stop->size() > kMostStops) refuse(wanted);
  for (const ordered_json& text : *stop) add(text);
}

void read_sampling(Body& body, RequestLine& line) {
  SamplingOptions& sampling = line.sampling;
  sampling.temp = static_cast<float>(body.number("temperature", 0, 2).value_or(1));
  sampling.top_p = static_cast<float>(body.number("top_p", 0, 1).value_or(1));
  // Other servers' words, which OpenAI has not: off unless given.
  sampling.top_k = body.integer("top_k", -1, kMostTokens).value_or(0);
  sampling.min_p = static_cast<float>(body.number("min_p", 0, 1).value_or(0));
  sampling.repeat_penalty = static_cast<float>(body.number("repetition_penalty", 0.01, 100).value_or(1));
  sampling.repeat_last_n = -1;
  line.ignore_end = body.boolean("ignore_eos");
  const ordered_json* seed = body.find("seed");
  if (seed == nullptr) return;
  if (!seed->is_number_integer()) refuse("body.seed: a whole number is wanted");
  line.seed = seed->is_number_unsigned() ? seed->get<uint64_t>() : static_cast<uint64_t>(seed->get<int64_t>());
}

const std::string* text_in(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? &found->get_ref<const std::string&>() : nullptr;
}

const std::string* custom_id_in(const ordered_json& json) {
  const std::string* id = json.is_object() ? text_in(json, "custom_id") : nullptr;
  return id != nullptr && !id->empty() ? id : nullptr;
}

RequestLine read_object(const ordered_json& json) {
  RequestLine line;
  const std::string* method = text_in(json, "method");
  if (method == nullptr || *method != "POST") refuse("method: \"POST\" is wanted");
  const std::string* url = text_in(json, "url");
  line.chat = url != nullptr && *url == "/v1/chat/completions";
  if (!line.chat && (url == nullptr || *url != "/v1/completions")) {
    throw LineFault("invalid_url", "url: \"/v1/chat/completions\" or \"/v1/completions\" is wanted");
  }
  const auto found = json.find("body");
  if (found == json.end()) refuse("body: an object is wanted");
  Body body(*found);
  line.model = body.text("model");
  if (line.chat) {
    read_chat(body, line);
  } else {
    read_completion(body, line);
  }
  read_stops(body, line);
  read_sampling(body, line);
  body.refuse_the_rest();
  return line;
}

}  // namespace

RequestLine read_request_line(std::string_view text) {
  const ordered_json json = parse_bounded_json(text);
  if (!json.is_object()) throw LineFault("invalid_json", "a JSON object is wanted");
  const std::string* custom_id = custom_id_in(json);
  if (custom_id == nullptr) throw LineFault("missing_custom_id", "custom_id: a string that is not empty is wanted");
  try {
    RequestLine line = read_object(json);
    line.custom_id = *custom_id;
    return line;
  } catch (const LineFault& fault) {
    throw LineFault(fault.code, fault.what(), *custom_id);
  }
}

std::optional<std::string> custom_id_of(std::string_view text) {
  try {
    const ordered_json json = parse_bounded_json(text);
    const std::string* custom_id = custom_id_in(json);
    return custom_id == nullptr ? std::nullopt : std::optional(*custom_id);
  } catch (const LineFault&) {
    return std::nullopt;
  }
}

}  // namespace spillway

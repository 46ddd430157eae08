#include "loader/text/json_special.h"

#include <fmt/format.h>

#include "loader/text/json_fields.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr const char* kKnown = "TemplateProcessing, ByteLevel, Sequence, RobertaProcessing";

class SpecialReader {
 public:
  SpecialReader(const std::filesystem::path& folder, const TokenizerJson& file, int32_t vocab,
                const std::function<int32_t(const std::string&)>& find)
      : folder_(folder), file_(file), vocab_(vocab), find_(find) {}

  JsonSpecial run() {
    json config = read_small_json(folder_ / "tokenizer_config.json");
    const json map = read_small_json(folder_ / "special_tokens_map.json");
    if (!config.is_object()) config = json::object();
    for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
      std::string text = special_text(config, key);
      if (text.empty()) text = special_text(map, key);
      const int32_t id = text.empty() ? -1 : find_(text);
      if (id < 0) continue;
      result_.named.push_back(id);
      if (key == std::string("bos_token")) result_.bos = id;
      if (key == std::string("eos_token")) result_.ends.push_back(id);
    }
    add_ends("generation_config.json");
    add_ends("config.json");
    const JsonFields root(file_.tree, file_.path);
    const json& processor = root.value("post_processor");
    if (!processor.is_null()) {
      add_processor(JsonFields(processor, file_.path + ": post_processor"), 0);
    } else if (const auto found = config.find("add_bos_token"); found != config.end() && *found == true) {
      if (result_.bos >= 0) result_.before.push_back(result_.bos);
    }
    if (result_.bos < 0 && !result_.before.empty()) result_.bos = result_.before.front();
    return std::move(result_);
  }

 private:
  void add_ends(const char* name) {
    const json config = read_small_json(folder_ / name);
    if (!config.is_object() || !config.contains("eos_token_id")) return;
    const json& ids = config["eos_token_id"];
    const auto add = [&](const json& id) {
      if (!id.is_number_integer() || id < 0 || id >= vocab_) return;
      result_.ends.push_back(id.get<int32_t>());
    };
    if (ids.is_array()) {
      for (const json& id : ids) add(id);
    } else {
      add(ids);
    }
  }

  void add_processor(const JsonFields& step, int depth) {
    const std::string type = step.type();
    if (type == "Sequence") {
      if (depth == 8) step.refuse("sequences are nested too deep");
      for (const JsonFields& inner : step.list("processors")) add_processor(inner, depth + 1);
    } else if (type == "TemplateProcessing") {
      add_template(step);
    } else if (type == "RobertaProcessing") {
      const json& cls = step.value("cls");
      const bool pair = cls.is_array() && cls.size() == 2 && cls[0].is_string();
      const int32_t id = pair ? find_(cls[0].get<std::string>()) : -1;
      if (id < 0) step.refuse("its cls is no token");
      result_.before.push_back(id);
    } else if (type != "ByteLevel") {
      step.refuse_type(kKnown);
    }
  }

  void add_template(const JsonFields& step) {
    for (const JsonFields& item : step.list("single")) {
      if (item.value("Sequence").is_object()) return;  // the text itself
      const JsonFields special(item.value("SpecialToken"), item.where());
      const std::string text = special.text("id", "");
      const int32_t id = find_(text);
      if (id < 0) step.refuse("names a special token that does not exist");
      result_.before.push_back(id);
    }
  }

  const std::filesystem::path& folder_;
  const TokenizerJson& file_;
  const int32_t vocab_;
  const std::function<int32_t(const std::string&)>& find_;
  JsonSpecial result_;
};

}  // namespace

std::string special_text(const json& config, const char* key) {
  if (!config.is_object()) return "";
  const auto found = config.find(key);
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_object()) return "";
  const auto content = found->find("content");
  return content != found->end() && content->is_string() ? content->get<std::string>() : "";
}

JsonSpecial read_json_special(const std::filesystem::path& folder, const TokenizerJson& file, int32_t vocab,
                              const std::function<int32_t(const std::string&)>& find) {
  return SpecialReader(folder, file, vocab, find).run();
}

}  // namespace spillway

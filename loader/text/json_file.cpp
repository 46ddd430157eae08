#include "loader/text/json_file.h"

#include <fmt/format.h>

#include "kernels/check.h"
#include "loader/printable.h"
#include "memory/file.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr uint64_t kMostBytes = 256 << 20;  // the largest real ones have 35 MB
constexpr size_t kMostValues = 400'000;     // of the tree; the largest real ones have 60,000
constexpr size_t kDeepest = 64;

// Takes nlohmann's events. Lists of a tokenizer are caught by where they lie.
class Reader : public nlohmann::json_sax<json> {
 public:
  // `into`: takes vocabulary and merges; null: everything is tree. `vocab_at`: the depth of the vocabulary's object.
  Reader(TokenizerJson* into, bool bare_vocabulary) : into_(into), bare_vocabulary_(bare_vocabulary) {}

  bool null() override { return scalar(json()); }
  bool boolean(bool value) override { return scalar(json(value)); }
  bool number_integer(number_integer_t value) override { return number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) return scalar(json(static_cast<double>(value)));
    return list_ == List::vocabulary ? number(static_cast<int64_t>(value)) : scalar(json(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return scalar(json(value)); }
  bool string(string_t& value) override {
    if (list_ == List::merges) return merge_text(value);
    return scalar(json(std::move(value)));
  }
  bool binary(binary_t&) override { return fail("holds binary data"); }

  bool start_object(size_t) override {
    if (list_ != List::none) return fail("has an object inside its vocabulary or merges");
    if (into_ && (at_list("vocab") || (bare_vocabulary_ && open_.empty()))) return enter(List::vocabulary);
    return push(json::object());
  }
  bool key(string_t& value) override {
    if (list_ == List::vocabulary) {
      into_->texts.add(value);
    } else {
      key_ = std::move(value);
    }
    return true;
  }
  bool end_object() override { return leave(); }
  bool start_array(size_t) override {
    if (list_ == List::vocabulary) return fail("has an array inside its vocabulary");
    if (list_ == List::merges) {
      if (in_pair_) return fail("has a merge that is no pair of texts");
      in_pair_ = true;
      pair_texts_ = 0;
      return true;
    }
    if (into_ && at_list("merges")) return enter(List::merges);
    return push(json::array());
  }
  bool end_array() override {
    if (!in_pair_) return leave();
    in_pair_ = false;
    return pair_texts_ == 2 || fail("has a merge that is no pair of texts");
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return fail(fmt::format("is no JSON: at byte {}", position));
  }

  json tree;
  std::string error;

 private:
  enum class List { none, vocabulary, merges };

  bool fail(std::string what) {
    if (error.empty()) error = std::move(what);
    return false;
  }
  bool at_list(const char* key) const { return open_.size() == 2 && keys_.back() == "model" && key_ == key; }
  bool enter(List list) {
    list_ = list;
    return true;
  }
  bool leave() {
    if (list_ != List::none) {
      list_ = List::none;
      return true;
    }
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  // Puts a value where the events have come to. Null when there is no room.
  json* place(json value) {
    if (++values_ > kMostValues) {
      fail(fmt::format("has more than {} values beside its vocabulary", kMostValues));
      return nullptr;
    }
    if (open_.empty()) {
      tree = std::move(value);
      return &tree;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool push(json value) {
    if (open_.size() == kDeepest) return fail(fmt::format("is nested deeper than {}", kDeepest));
    std::string name = key_;
    json* placed = place(std::move(value));
    if (!placed) return false;
    open_.push_back(placed);
    keys_.push_back(std::move(name));
    return true;
  }
  bool scalar(json value) {
    if (list_ != List::none) return fail("has a value of the wrong type in its vocabulary or merges");
    return place(std::move(value)) != nullptr;
  }
  bool number(int64_t value) {
    if (list_ != List::vocabulary) return scalar(json(value));
    if (value < 0 || value > INT32_MAX) return fail(fmt::format("has the id {} in its vocabulary", value));
    into_->text_ids.push_back(static_cast<int32_t>(value));
    return true;
  }
  bool merge_text(const std::string& value) {
    if (in_pair_) {
      ++pair_texts_;
      into_->merges.add(value);
      return true;
    }
    const size_t space = value.find(' ', 1);
    if (space == std::string::npos)
      return fail(fmt::format("has the merge \"{}\", which is not a pair", printable(value)));
    into_->merges.add(std::string_view(value).substr(0, space));
    into_->merges.add(std::string_view(value).substr(space + 1));
    return true;
  }

  TokenizerJson* into_;
  bool bare_vocabulary_;
  List list_ = List::none;
  bool in_pair_ = false;
  int pair_texts_ = 0;
  size_t values_ = 0;
  std::vector<json*> open_;        // the objects and arrays around, whose elements do not move while they are open
  std::vector<std::string> keys_;  // under which they lie
  std::string key_;
};

void parse(const std::string& text, const std::filesystem::path& path, Reader& reader) {
  if (!json::sax_parse(text, &reader)) {
    throw Error(ErrorKind::model, fmt::format("{}: {}", path.string(), reader.error));
  }
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& message) {
  throw Error(ErrorKind::model, fmt::format("{}: {}", path.string(), message));
}

}  // namespace

std::string read_model_text(const std::filesystem::path& path) {
  const File file = File::open_read(path.string());
  if (file.bytes() > kMostBytes) {
    refuse(path, fmt::format("has {} bytes; at most {} are read", file.bytes(), kMostBytes));
  }
  std::string text(file.bytes(), '\0');
  file.read(0, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  return text;
}

TokenizerJson read_tokenizer_json(const std::filesystem::path& path) {
  TokenizerJson result{.path = path.string()};
  Reader reader(&result, false);
  parse(read_model_text(path), path, reader);
  result.tree = std::move(reader.tree);
  if (!result.tree.is_object()) refuse(path, "is no object");
  if (result.texts.size() != result.text_ids.size()) refuse(path, "has a text without an id in its vocabulary");
  return result;
}

TokenizerJson read_vocab_and_merges(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "vocab.json";
  TokenizerJson result{.path = path.string()};
  Reader reader(&result, true);
  parse(read_model_text(path), path, reader);
  if (result.texts.size() != result.text_ids.size()) refuse(path, "has a text without an id");
  const std::string lines = read_model_text(folder / "merges.txt");
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = std::min(lines.find('\n', begin), lines.size());
    std::string_view line = std::string_view(lines).substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    begin = end + 1;
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) {
      refuse(folder / "merges.txt", fmt::format("the merge \"{}\" is not a pair", printable(line)));
    }
    result.merges.add(line.substr(0, space));
    result.merges.add(line.substr(space + 1));
  }
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  result.tree = {{"model", {{"type", "BPE"}}}, {"pre_tokenizer", byte_level}, {"decoder", byte_level}};
  return result;
}

json read_small_json(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  Reader reader(nullptr, false);
  parse(read_model_text(path), path, reader);
  return std::move(reader.tree);
}

}  // namespace spillway

#include "loader/text/json_tokenizer.h"

#include <fmt/format.h>

#include <deque>

#include "loader/printable.h"
#include "loader/text/added_tokens.h"
#include "loader/text/json_bpe.h"
#include "loader/text/json_decoder.h"
#include "loader/text/json_fields.h"
#include "loader/text/json_file.h"
#include "loader/text/json_normalizer.h"
#include "loader/text/json_pretokenizer.h"
#include "loader/text/json_special.h"
#include "loader/text/table_tokenizer.h"
#include "loader/text/utf8_runs.h"

namespace spillway {
namespace {

constexpr int64_t kMostTokens = 1 << 20;  // the largest real vocabularies have 300,000

struct AddedEntry {
  AddedToken token;
  bool special = false;
  bool normalized = true;
};

std::vector<AddedEntry> read_added(const JsonFields& root) {
  std::vector<AddedEntry> result;
  for (const JsonFields& entry : root.list("added_tokens")) {
    const int64_t id = entry.integer("id", -1);
    const std::string text = entry.text("content", "");
    if (id < 0 || id >= kMostTokens || text.empty()) {
      entry.refuse(fmt::format("no token can have the id {} and the text \"{}\"", id, printable(text)));
    }
    const bool special = entry.flag("special", false);
    result.push_back({.token = {.text = text,
                                .id = static_cast<int32_t>(id),
                                .lstrip = entry.flag("lstrip", false),
                                .rstrip = entry.flag("rstrip", false),
                                .single_word = entry.flag("single_word", false)},
                      .special = special,
                      .normalized = entry.flag("normalized", !special)});
  }
  return result;
}

// One past the highest id. A file may leave a few ids without a text, not most of them.
size_t vocabulary_size(const TokenizerJson& file, const std::vector<AddedEntry>& added) {
  int64_t highest = -1;
  for (const int32_t id : file.text_ids) highest = std::max<int64_t>(highest, id);
  for (const AddedEntry& entry : added) highest = std::max<int64_t>(highest, entry.token.id);
  const auto texts = static_cast<int64_t>(file.text_ids.size() + added.size());
  if (file.text_ids.empty()) {
    throw Error(ErrorKind::model, fmt::format("{}: model, vocab: is empty, or no object of texts and ids", file.path));
  }
  if (highest >= std::min(kMostTokens, 2 * texts + 1024)) {
    throw Error(ErrorKind::model, fmt::format("{}: the id {} in a vocabulary of {} texts", file.path, highest, texts));
  }
  return static_cast<size_t>(highest) + 1;
}

class JsonTokenizer : public TableTokenizer {
 public:
  JsonTokenizer(const std::filesystem::path& folder, std::unique_ptr<const TokenizerJson> owned)
      : file_(std::move(owned)),
        normalizer_(part("normalizer"), file_->path + ": normalizer"),
        pretokenizer_(part("pre_tokenizer"), file_->path + ": pre_tokenizer"),
        decoder_(part("decoder"), file_->path + ": decoder"),
        model_(*file_, pretokenizer_.byte_level()) {
    const std::vector<AddedEntry> added = read_added(JsonFields(file_->tree, file_->path));
    const size_t vocab = vocabulary_size(*file_, added);
    const auto find = [&](const std::string& text) {
      for (const AddedEntry& entry : added) {
        if (entry.token.text == text) return entry.token.id;
      }
      return model_.find(text);
    };
    const JsonSpecial special = read_json_special(folder, *file_, static_cast<int32_t>(vocab), find);
    store_pieces(vocab, added, special);
    collect(added, special);
    bos_ = special.bos;
    before_ = special.before;
    for (const int32_t id : special.ends) set_end(id);
    for (const AddedEntry& entry : added) {
      if (ends_a_turn(entry.token.text)) set_end(entry.token.id);
    }
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos) const override;
  bool writes_space_first() const override { return decoder_.drops_first_space(); }

 private:
  struct Work {
    explicit Work(const JsonTokenizer& self, bool special, std::string_view whole_text)
        : normalized(*self.normalized_[special]), whole(whole_text), growth(whole_text.size()) {}
    const AddedTokens& normalized;
    std::string_view whole;
    Growth growth;
    WordCache cache;
    Pieces pieces;
    std::deque<std::string> texts;  // normalized, which the cache views
    std::vector<int32_t> ids;
  };

  const nlohmann::json& part(const char* key) const { return JsonFields(file_->tree, file_->path).value(key); }
  void store_pieces(size_t vocab, const std::vector<AddedEntry>& added, const JsonSpecial& special);
  void collect(const std::vector<AddedEntry>& added, const JsonSpecial& special);
  void encode_part(std::string_view text, Work& work) const;
  void encode_pieces(std::string_view text, bool first, Work& work) const;

  std::unique_ptr<const TokenizerJson> file_;
  JsonNormalizer normalizer_;
  JsonPretokenizer pretokenizer_;
  JsonDecoder decoder_;
  JsonBpe model_;
  // Found in a text as it is, and after the normalizer; without and with special tokens.
  std::unique_ptr<AddedTokens> raw_[2], normalized_[2];
  std::vector<int32_t> before_;
};

void JsonTokenizer::store_pieces(size_t vocab, const std::vector<AddedEntry>& added, const JsonSpecial& special) {
  std::vector<std::string_view> texts(vocab);
  std::vector<bool> hidden(vocab), literal(vocab);
  for (size_t i = 0; i < file_->texts.size(); ++i) {
    texts[static_cast<size_t>(file_->text_ids[i])] = file_->texts[i];
  }
  for (const int32_t id : special.named) hidden[static_cast<size_t>(id)] = true;
  for (const AddedEntry& entry : added) {
    const auto id = static_cast<size_t>(entry.token.id);
    texts[id] = entry.token.text;
    hidden[id] = entry.special;
    literal[id] = pretokenizer_.byte_level();  // its characters are no bytes' symbols
  }
  size_t bytes = 0;
  for (const std::string_view text : texts) bytes += text.size();
  Growth growth(bytes);
  for (size_t id = 0; id < vocab; ++id) {
    add_token(literal[id] ? std::string(texts[id]) : decoder_.bytes(texts[id], growth), hidden[id]);
  }
}

void JsonTokenizer::collect(const std::vector<AddedEntry>& added, const JsonSpecial& special) {
  size_t bytes = 0;
  for (const AddedEntry& entry : added) bytes += entry.token.text.size();
  for (const bool with_special : {false, true}) {
    Growth growth(bytes);
    std::vector<AddedToken> raw, normalized;
    for (const AddedEntry& entry : added) {
      if (entry.special && !with_special) continue;
      AddedToken token = entry.token;
      if (entry.normalized) token.text = normalizer_.apply(token.text, growth);
      (entry.normalized ? normalized : raw).push_back(std::move(token));
    }
    // A folder without a list of added tokens names its special ones only.
    if (with_special && added.empty()) {
      for (const int32_t id : special.named) raw.push_back({.text = std::string(piece(id, true)), .id = id});
    }
    raw_[with_special] = std::make_unique<AddedTokens>(std::move(raw));
    normalized_[with_special] = std::make_unique<AddedTokens>(std::move(normalized));
  }
}

std::vector<int32_t> JsonTokenizer::encode(std::string_view text, bool parse_special, bool add_bos) const {
  check_text_size(text);
  Work work(*this, parse_special, text);
  if (add_bos) work.ids = before_;
  for_each_part(
      *raw_[parse_special], text, [&](std::string_view one) { encode_part(one, work); },
      [&](int32_t id) { work.ids.push_back(id); });
  return std::move(work.ids);
}

void JsonTokenizer::encode_part(std::string_view text, Work& work) const {
  for_each_utf8_run(text, [&](std::string_view run, bool well_formed) {
    if (!well_formed) {
      model_.append(run, work.cache, work.ids);
      return;
    }
    const bool first = run.data() == work.whole.data();
    const bool continues = run.data() != text.data();
    const std::string_view normal =
        work.texts.emplace_back(normalizer_.apply(std::string(run), work.growth, continues));
    for_each_part(
        work.normalized, normal,
        [&](std::string_view one) { encode_pieces(one, first && one.data() == normal.data(), work); },
        [&](int32_t id) { work.ids.push_back(id); });
  });
}

void JsonTokenizer::encode_pieces(std::string_view text, bool first, Work& work) const {
  work.pieces.reset(text);
  pretokenizer_.apply(work.pieces, first);
  for (const std::string_view piece : work.pieces.list) model_.append(piece, work.cache, work.ids);
}

}  // namespace

bool has_json_tokenizer(const std::filesystem::path& folder) {
  std::error_code ignored;
  return std::filesystem::exists(folder / "tokenizer.json", ignored) ||
         (std::filesystem::exists(folder / "vocab.json", ignored) &&
          std::filesystem::exists(folder / "merges.txt", ignored));
}

std::filesystem::path json_tokenizer_file(const std::filesystem::path& folder) {
  std::error_code ignored;
  const std::filesystem::path one = folder / "tokenizer.json";
  return std::filesystem::exists(one, ignored) ? one : folder / "vocab.json";
}

std::unique_ptr<Tokenizer> read_json_tokenizer(const std::filesystem::path& folder) {
  const std::filesystem::path path = json_tokenizer_file(folder);
  auto file = std::make_unique<const TokenizerJson>(
      path.filename() == "tokenizer.json" ? read_tokenizer_json(path) : read_vocab_and_merges(folder));
  return std::make_unique<JsonTokenizer>(folder, std::move(file));
}

}  // namespace spillway

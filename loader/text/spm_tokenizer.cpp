#include "loader/text/spm_tokenizer.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <deque>

#include "loader/text/gguf_vocabulary.h"
#include "loader/text/spm_merges.h"
#include "loader/text/table_tokenizer.h"
#include "loader/text/word_cache.h"
#include "loader/text/words.h"

namespace spillway {
namespace {

const std::vector<double>& read_scores(const GgufVocabulary& file) {
  const auto found = file.checkpoint.meta.find("tokenizer.ggml.scores");
  const auto* array = found == file.checkpoint.meta.end() ? nullptr : std::get_if<MetaArray>(&found->second);
  const auto* scores = array ? std::get_if<std::vector<double>>(array) : nullptr;
  if (!scores || scores->size() != file.tokens.size()) {
    file.refuse(
        fmt::format("tokenizer.ggml.scores must hold one number for each of the {} tokens", file.tokens.size()));
  }
  for (const double score : *scores) {
    if (!std::isfinite(score)) file.refuse("tokenizer.ggml.scores holds what is no number");
  }
  return *scores;
}

// Phi-3's turns swallow the line break that its template writes after them; GGUF has no flag for it.
AddedTokens control_tokens(const GgufVocabulary& file) {
  return file.added(
      {.control = true, .rstrip_turns = file.checkpoint.text("general.architecture", "") == "phi3", .marked = true});
}

std::vector<SpmMerges::Piece> pieces_of(const GgufVocabulary& file) {
  const std::vector<double>& scores = read_scores(file);
  std::vector<SpmMerges::Piece> pieces;
  pieces.reserve(file.tokens.size());
  for (size_t id = 0; id < file.tokens.size(); ++id) {
    const bool unused = file.types[id] == TokenType::unused;
    if (!unused && file.types[id] != TokenType::normal && file.types[id] != TokenType::user_defined) continue;
    pieces.push_back({file.tokens[id], static_cast<int32_t>(id), static_cast<float>(scores[id]), unused});
  }
  return pieces;
}

class SpmTokenizer : public TableTokenizer {
 public:
  explicit SpmTokenizer(const GgufVocabulary& file)
      : always_(file.added({.marked = true})),
        special_(control_tokens(file)),
        merges_(pieces_of(file), file.tokens.size()) {
    byte_ids_.fill(-1);
    for (size_t id = 0; id < file.tokens.size(); ++id) add(file, id);
    unknown_ = file.id_of("tokenizer.ggml.unknown_token_id");
    bos_ = file.bos;
    adds_bos_ = file.checkpoint.integer("tokenizer.ggml.add_bos_token", 1) != 0;
    space_prefix_ = file.checkpoint.integer("tokenizer.ggml.add_space_prefix", 1) != 0;
    for (const int32_t id : file.ends) set_end(id);
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos) const override {
    check_text_size(text);
    std::vector<int32_t> ids;
    if (add_bos && adds_bos_ && bos_ >= 0) ids.push_back(bos_);
    Work work;
    for_each_part(
        parse_special ? special_ : always_, text, [&](std::string_view part) { encode_plain(part, work, ids); },
        [&](int32_t id) { ids.push_back(id); });
    return ids;
  }

  bool writes_space_first() const override { return space_prefix_; }

 private:
  struct Work {
    std::deque<std::string> marked;  // which the cache views
    WordCache cache;
    std::vector<std::string_view> words;
  };

  void add(const GgufVocabulary& file, size_t id) {
    const std::string& text = file.tokens[id];
    const int byte = file.types[id] == TokenType::byte ? byte_of_token(text) : -1;
    if (byte >= 0) {
      const char raw = static_cast<char>(byte);
      add_token({&raw, 1}, false);
      byte_ids_[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
      return;
    }
    add_token(file.hidden(id) ? text : unmarked(text), file.hidden(id));
    const bool merges = file.types[id] == TokenType::normal || file.types[id] == TokenType::unused;
    if (merges && mark_inside(text)) words_apart_ = false;
  }

  // What lies between the tokens that stand in the text as it is. User-defined pieces are found once more where its
  // spaces are marks: two steps, as Hugging Face's tokenizers have an added token and the merge of the same piece. Only
  // so are the ids theirs for Gemma's runs of spaces where a text's own marks lie among them: of "\u2581\u2581 " the
  // marks are one piece and the space is another, which sentencepiece, looking once, takes for a run of three.
  void encode_plain(std::string_view text, Work& work, std::vector<int32_t>& ids) const {
    work.marked.push_back((space_prefix_ ? std::string(kSpaceMark) : std::string()) + marked(text));
    for_each_part(
        always_, work.marked.back(), [&](std::string_view part) { encode_marked(part, work, ids); },
        [&](int32_t id) { ids.push_back(id); });
  }

  void encode_marked(std::string_view text, Work& work, std::vector<int32_t>& ids) const {
    work.words.clear();
    if (words_apart_) {
      split_words(text, work.words);
    } else {
      work.words.push_back(text);
    }
    for (const std::string_view one : work.words) {
      work.cache.append(one, ids, [&](std::string_view word, std::vector<int32_t>& out) {
        merges_.apply(word, out, [&](std::string_view lacking) { fall_back(lacking, out); });
      });
    }
  }

  void fall_back(std::string_view text, std::vector<int32_t>& ids) const {
    for (const char c : text) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        ids.push_back(id);
      } else if (unknown_ >= 0) {
        ids.push_back(unknown_);
        return;
      }
    }
  }

  AddedTokens always_, special_;  // without and with control tokens; spaces of user-defined pieces are marks
  SpmMerges merges_;
  std::array<int32_t, 256> byte_ids_{};  // -1: the vocabulary lacks the byte
  int32_t unknown_ = -1;
  bool adds_bos_ = false;
  bool space_prefix_ = false;
  bool words_apart_ = true;
};

}  // namespace

std::unique_ptr<Tokenizer> make_spm_tokenizer(const Checkpoint& checkpoint) {
  return std::make_unique<SpmTokenizer>(read_gguf_vocabulary(checkpoint));
}

}  // namespace spillway

#include "loader/text/bpe_tokenizer.h"

#include <fmt/format.h>

#include <array>

#include "loader/printable.h"
#include "loader/text/byte_alphabet.h"
#include "loader/text/gguf_vocabulary.h"
#include "loader/text/pair_merges.h"
#include "loader/text/patterns.h"
#include "loader/text/pieces.h"
#include "loader/text/table_tokenizer.h"
#include "loader/text/text_ids.h"
#include "loader/text/utf8_runs.h"
#include "loader/text/word_cache.h"

namespace spillway {
namespace {

PairMerges read_merges(const GgufVocabulary& file, const TextIds& vocabulary) {
  const auto* lines = file.checkpoint.strings("tokenizer.ggml.merges");
  if (!lines) file.refuse("the key tokenizer.ggml.merges is missing");
  PairMerges merges(lines->size());
  std::string joined;
  for (const std::string& line : *lines) {
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos) {
      file.refuse(fmt::format("the merge \"{}\" (tokenizer.ggml.merges) is not a pair", printable(line)));
    }
    joined.assign(line, 0, space);
    joined.append(line, space + 1);
    const int32_t left = vocabulary.find(std::string_view(line).substr(0, space));
    const int32_t right = vocabulary.find(std::string_view(line).substr(space + 1));
    const int32_t merged = vocabulary.find(joined);
    if (left < 0 || right < 0 || merged < 0) {
      file.refuse(fmt::format("the merge \"{}\" (tokenizer.ggml.merges) speaks of a token that does not exist",
                              printable(line)));
    }
    merges.add(left, right, merged);
  }
  return merges;
}

class BpeTokenizer : public TableTokenizer {
 public:
  explicit BpeTokenizer(const GgufVocabulary& file)
      : pretokenizer_(named_pretokenizer(file.checkpoint.text("tokenizer.ggml.pre"), file.checkpoint.path())),
        always_(file.added({})),
        special_(file.added({.control = true})) {
    TextIds vocabulary(file.tokens.size());
    for (size_t id = 0; id < file.tokens.size(); ++id) vocabulary.add(file.tokens[id], static_cast<int32_t>(id));
    merges_ = std::make_unique<PairMerges>(read_merges(file, vocabulary));
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocabulary.find(byte_symbol(static_cast<unsigned char>(byte)));
    }
    store_pieces(file);
    bos_ = file.bos;
    adds_bos_ = file.checkpoint.integer("tokenizer.ggml.add_bos_token", pretokenizer_.adds_bos) != 0;
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

 private:
  struct Work {
    WordCache cache;
    Pieces pieces;
    std::vector<int32_t> symbols;
  };

  void store_pieces(const GgufVocabulary& file);
  void encode_plain(std::string_view text, Work& work, std::vector<int32_t>& ids) const;
  void merge(std::string_view piece, std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const;

  NamedPretokenizer pretokenizer_;
  AddedTokens always_, special_;
  std::unique_ptr<PairMerges> merges_;
  std::array<int32_t, 256> byte_ids_{};    // -1: the vocabulary lacks the byte
  std::unique_ptr<TextIds> whole_pieces_;  // normal tokens by their bytes, where merges are ignored
  bool adds_bos_ = false;
};

void BpeTokenizer::store_pieces(const GgufVocabulary& file) {
  const std::vector<TokenType>& types = file.types;
  std::string bytes;
  for (size_t id = 0; id < file.tokens.size(); ++id) {
    const bool written = types[id] == TokenType::normal || types[id] == TokenType::unused;
    bytes.clear();
    if (!written || !append_bytes_of_symbols(file.tokens[id], bytes)) bytes = file.tokens[id];
    add_token(bytes, file.hidden(id));
  }
  if (!pretokenizer_.ignores_merges) return;
  whole_pieces_ = std::make_unique<TextIds>(file.tokens.size());
  for (size_t id = 0; id < file.tokens.size(); ++id) {
    const auto number = static_cast<int32_t>(id);
    if (types[id] == TokenType::normal) whole_pieces_->add(piece(number, true), number);
  }
}

void BpeTokenizer::encode_plain(std::string_view text, Work& work, std::vector<int32_t>& ids) const {
  for_each_utf8_run(text, [&](std::string_view run, bool well_formed) {
    work.pieces.reset(run);
    if (well_formed) {
      for (const Split& split : *pretokenizer_.splits) work.pieces.apply(split);
    }
    for (const std::string_view piece : work.pieces.list) {
      work.cache.append(piece, ids,
                        [&](std::string_view word, std::vector<int32_t>& out) { merge(word, work.symbols, out); });
    }
  });
}

void BpeTokenizer::merge(std::string_view piece, std::vector<int32_t>& symbols, std::vector<int32_t>& ids) const {
  if (whole_pieces_) {
    const int32_t whole = whole_pieces_->find(piece);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  symbols.clear();
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) symbols.push_back(id);
  }
  merges_->apply(symbols, ids);
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const Checkpoint& checkpoint) {
  return std::make_unique<BpeTokenizer>(read_gguf_vocabulary(checkpoint));
}

}  // namespace spillway

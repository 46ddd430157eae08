#include "loader/tokenizer_bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>

#include "loader/byte_alphabet.h"
#include "loader/pair_merges.h"
#include "loader/pretokenizer.h"
#include "loader/printable.h"
#include "loader/special_tokens.h"
#include "loader/text_ids.h"

namespace spillway {
namespace {

// llama.cpp's token types, as tokenizer.ggml.token_type holds them.
enum class TokenType : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

[[noreturn]] void refuse(const Checkpoint& checkpoint, const std::string& message) {
  throw Error(ErrorKind::model, fmt::format("{}: {}", checkpoint.path(), message));
}

const std::vector<std::string>& required_strings(const Checkpoint& checkpoint, std::string_view key) {
  const auto* strings = checkpoint.strings(std::string(key));
  if (!strings) refuse(checkpoint, fmt::format("the key {} is missing", key));
  return *strings;
}

std::vector<TokenType> read_types(const Checkpoint& checkpoint, size_t tokens) {
  const auto found = checkpoint.meta.find("tokenizer.ggml.token_type");
  if (found == checkpoint.meta.end()) return std::vector<TokenType>(tokens, TokenType::normal);
  const auto* array = std::get_if<MetaArray>(&found->second);
  const auto* numbers = array ? std::get_if<std::vector<int64_t>>(array) : nullptr;
  if (!numbers || numbers->size() != tokens) {
    refuse(checkpoint,
           fmt::format("tokenizer.ggml.token_type must hold one integer for each of the {} tokens", tokens));
  }
  std::vector<TokenType> types;
  types.reserve(tokens);
  for (const int64_t number : *numbers) {
    if (number < 0 || number > 6)
      refuse(checkpoint, fmt::format("tokenizer.ggml.token_type holds {}; 0 to 6 exist", number));
    types.push_back(static_cast<TokenType>(number));
  }
  return types;
}

// The id under `key`, -1 where the key is missing.
int32_t read_id(const Checkpoint& checkpoint, const std::string& key, size_t tokens) {
  const int64_t id = checkpoint.integer(key, -1);
  if (!checkpoint.meta.contains(key)) return -1;
  if (id < 0 || id >= static_cast<int64_t>(tokens)) {
    refuse(checkpoint, fmt::format("{} is {}, but there are {} tokens", key, id, tokens));
  }
  return static_cast<int32_t>(id);
}

PairMerges read_merges(const Checkpoint& checkpoint, const TextIds& vocabulary) {
  const auto& lines = required_strings(checkpoint, "tokenizer.ggml.merges");
  PairMerges merges(lines.size());
  std::string joined;
  for (const std::string& line : lines) {
    const size_t space = line.find(' ', 1);
    if (space == std::string::npos) {
      refuse(checkpoint, fmt::format("the merge \"{}\" (tokenizer.ggml.merges) is not a pair", printable(line)));
    }
    joined.assign(line, 0, space);
    joined.append(line, space + 1);
    const int32_t left = vocabulary.find(std::string_view(line).substr(0, space));
    const int32_t right = vocabulary.find(std::string_view(line).substr(space + 1));
    const int32_t merged = vocabulary.find(joined);
    if (left < 0 || right < 0 || merged < 0) {
      refuse(checkpoint, fmt::format("the merge \"{}\" (tokenizer.ggml.merges) speaks of a token that does not exist",
                                     printable(line)));
    }
    merges.add(left, right, merged);
  }
  return merges;
}

// Texts that end a turn or a text in the models we know, for files that name only one of them.
constexpr std::string_view kEnds[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>",
                                      "<|end|>",    "<|EOT|>",    "<EOT>",      "<end_of_turn>",   "<|end_of_turn|>"};

constexpr size_t kMostTokens = 1 << 20;  // the largest real vocabularies have 300,000

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(const Checkpoint& checkpoint)
      : pretokenizer_(checkpoint.text("tokenizer.ggml.pre"), checkpoint.path()) {
    const auto& tokens = required_strings(checkpoint, "tokenizer.ggml.tokens");
    if (tokens.empty()) refuse(checkpoint, "tokenizer.ggml.tokens is empty");
    if (tokens.size() > kMostTokens) {
      refuse(checkpoint,
             fmt::format("tokenizer.ggml.tokens has {} tokens; at most {} are read", tokens.size(), kMostTokens));
    }
    const std::vector<TokenType> types = read_types(checkpoint, tokens.size());
    TextIds vocabulary(tokens.size());
    for (size_t id = 0; id < tokens.size(); ++id) vocabulary.add(tokens[id], static_cast<int32_t>(id));
    merges_ = std::make_unique<PairMerges>(read_merges(checkpoint, vocabulary));
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocabulary.find(byte_symbol(static_cast<unsigned char>(byte)));
    }
    store_pieces(tokens, types);
    collect_specials(tokens, types);
    read_ids(checkpoint, tokens, types);
  }

  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos) const override;

  std::string_view piece(int32_t id, bool special) const override {
    if (id < 0 || id >= vocab() || (hidden_[id] && !special)) return {};
    return std::string_view(bytes_).substr(starts_[id], starts_[id + 1] - starts_[id]);
  }
  int vocab() const override { return static_cast<int>(hidden_.size()); }
  int32_t bos() const override { return bos_; }
  bool is_end(int32_t id) const override { return id >= 0 && id < vocab() && ends_[id]; }

 private:
  struct Cache;

  void store_pieces(const std::vector<std::string>& tokens, const std::vector<TokenType>& types);
  void collect_specials(const std::vector<std::string>& tokens, const std::vector<TokenType>& types);
  void read_ids(const Checkpoint& checkpoint, const std::vector<std::string>& tokens,
                const std::vector<TokenType>& types);
  void encode_plain(std::string_view text, Cache& cache, std::vector<int32_t>& ids) const;
  void encode_piece(std::string_view piece, Cache& cache, std::vector<int32_t>& ids) const;

  Pretokenizer pretokenizer_;
  std::unique_ptr<PairMerges> merges_;
  std::array<int32_t, 256> byte_ids_{};     // -1: the vocabulary lacks the byte
  std::string bytes_;                       // of all tokens, one after the other
  std::vector<size_t> starts_;              // vocab + 1 offsets into bytes_
  std::vector<bool> hidden_;                // control tokens
  std::unique_ptr<TextIds> whole_pieces_;   // normal tokens by their bytes, where merges are ignored
  std::unique_ptr<SpecialTokens> always_;   // user-defined tokens
  std::unique_ptr<SpecialTokens> special_;  // and control tokens
  int32_t bos_ = -1;
  bool adds_bos_ = false;
  std::vector<bool> ends_;  // by id
};

// Pieces already merged in this call. Keys view the text, so nothing is copied.
struct BpeTokenizer::Cache {
  static constexpr size_t kEntries = 1 << 16;
  static constexpr size_t kPieceBytes = 64;

  struct Range {
    uint32_t begin, count;
  };
  std::unordered_map<std::string_view, Range> known;
  std::vector<int32_t> ids;
  std::vector<int32_t> symbols;
  std::vector<std::string_view> pieces;
};

void BpeTokenizer::store_pieces(const std::vector<std::string>& tokens, const std::vector<TokenType>& types) {
  starts_.reserve(tokens.size() + 1);
  hidden_.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    starts_.push_back(bytes_.size());
    hidden_.push_back(types[id] == TokenType::control || types[id] == TokenType::unknown);
    const bool written = types[id] == TokenType::normal || types[id] == TokenType::unused;
    if (!written || !append_bytes_of_symbols(tokens[id], bytes_)) bytes_ += tokens[id];
  }
  starts_.push_back(bytes_.size());
  if (!pretokenizer_.ignores_merges()) return;
  whole_pieces_ = std::make_unique<TextIds>(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    const auto number = static_cast<int32_t>(id);
    if (types[id] == TokenType::normal) whole_pieces_->add(piece(number, true), number);
  }
}

void BpeTokenizer::collect_specials(const std::vector<std::string>& tokens, const std::vector<TokenType>& types) {
  std::vector<std::pair<std::string, int32_t>> always, special;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool user_defined = types[id] == TokenType::user_defined;
    if (user_defined) always.emplace_back(tokens[id], id);
    if (user_defined || hidden_[id]) special.emplace_back(tokens[id], id);
  }
  always_ = std::make_unique<SpecialTokens>(std::move(always));
  special_ = std::make_unique<SpecialTokens>(std::move(special));
}

void BpeTokenizer::read_ids(const Checkpoint& checkpoint, const std::vector<std::string>& tokens,
                            const std::vector<TokenType>& types) {
  bos_ = read_id(checkpoint, "tokenizer.ggml.bos_token_id", tokens.size());
  adds_bos_ = checkpoint.integer("tokenizer.ggml.add_bos_token", pretokenizer_.adds_bos()) != 0;
  ends_.resize(tokens.size());
  for (const char* key : {"eos", "eot", "eom"}) {
    const int32_t id = read_id(checkpoint, fmt::format("tokenizer.ggml.{}_token_id", key), tokens.size());
    if (id >= 0) ends_[id] = true;
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool may_end = types[id] == TokenType::control || types[id] == TokenType::user_defined;
    if (may_end && std::find(std::begin(kEnds), std::end(kEnds), tokens[id]) != std::end(kEnds)) ends_[id] = true;
  }
}

std::vector<int32_t> BpeTokenizer::encode(std::string_view text, bool parse_special, bool add_bos) const {
  if (text.size() >= UINT32_MAX)
    throw Error(ErrorKind::usage, "a text of 4 GiB or more cannot be tokenised in one piece");
  std::vector<int32_t> ids;
  if (add_bos && adds_bos_ && bos_ >= 0) ids.push_back(bos_);
  const SpecialTokens& specials = parse_special ? *special_ : *always_;
  Cache cache;
  for (size_t at = 0; at < text.size();) {
    const SpecialTokens::Match match = specials.find(text, at);
    encode_plain(text.substr(at, match.at - at), cache, ids);
    if (match.id >= 0) ids.push_back(match.id);
    at = match.at + match.bytes;
  }
  return ids;
}

void BpeTokenizer::encode_plain(std::string_view text, Cache& cache, std::vector<int32_t>& ids) const {
  cache.pieces.clear();
  pretokenizer_.split(text, cache.pieces);
  for (const std::string_view piece : cache.pieces) {
    const auto known = cache.known.find(piece);
    if (known != cache.known.end()) {
      const auto begin = cache.ids.begin() + known->second.begin;
      ids.insert(ids.end(), begin, begin + known->second.count);
      continue;
    }
    const size_t before = ids.size();
    encode_piece(piece, cache, ids);
    if (piece.size() <= Cache::kPieceBytes && cache.known.size() < Cache::kEntries) {
      const auto begin = static_cast<uint32_t>(cache.ids.size());
      cache.ids.insert(cache.ids.end(), ids.begin() + before, ids.end());
      cache.known.emplace(piece, Cache::Range{begin, static_cast<uint32_t>(ids.size() - before)});
    }
  }
}

void BpeTokenizer::encode_piece(std::string_view piece, Cache& cache, std::vector<int32_t>& ids) const {
  if (whole_pieces_) {
    const int32_t whole = whole_pieces_->find(piece);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  cache.symbols.clear();
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) cache.symbols.push_back(id);
  }
  merges_->apply(cache.symbols, ids);
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const Checkpoint& checkpoint) {
  return std::make_unique<BpeTokenizer>(checkpoint);
}

}  // namespace spillway

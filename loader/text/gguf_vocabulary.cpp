#include "loader/text/gguf_vocabulary.h"

#include <fmt/format.h>

#include "loader/text/table_tokenizer.h"
#include "loader/text/words.h"

namespace spillway {
namespace {

constexpr size_t kMostTokens = 1 << 20;  // the largest real vocabularies have 300,000

[[noreturn]] void refuse_file(const Checkpoint& checkpoint, const std::string& message) {
  throw Error(ErrorKind::model, fmt::format("{}: {}", checkpoint.path(), message));
}

const std::vector<std::string>& read_tokens(const Checkpoint& checkpoint) {
  const auto* tokens = checkpoint.strings("tokenizer.ggml.tokens");
  if (!tokens) refuse_file(checkpoint, "the key tokenizer.ggml.tokens is missing");
  if (tokens->empty()) refuse_file(checkpoint, "tokenizer.ggml.tokens is empty");
  if (tokens->size() > kMostTokens) {
    refuse_file(checkpoint,
                fmt::format("tokenizer.ggml.tokens has {} tokens; at most {} are read", tokens->size(), kMostTokens));
  }
  return *tokens;
}

std::vector<TokenType> read_types(const Checkpoint& checkpoint, size_t tokens) {
  const auto found = checkpoint.meta.find("tokenizer.ggml.token_type");
  if (found == checkpoint.meta.end()) return std::vector<TokenType>(tokens, TokenType::normal);
  const auto* array = std::get_if<MetaArray>(&found->second);
  const auto* numbers = array ? std::get_if<std::vector<int64_t>>(array) : nullptr;
  if (!numbers || numbers->size() != tokens) {
    refuse_file(checkpoint,
                fmt::format("tokenizer.ggml.token_type must hold one integer for each of the {} tokens", tokens));
  }
  std::vector<TokenType> types;
  types.reserve(tokens);
  for (const int64_t number : *numbers) {
    if (number < 0 || number > 6)
      refuse_file(checkpoint, fmt::format("tokenizer.ggml.token_type holds {}; 0 to 6 exist", number));
    types.push_back(static_cast<TokenType>(number));
  }
  return types;
}

}  // namespace

void GgufVocabulary::refuse(const std::string& message) const { refuse_file(checkpoint, message); }

int32_t GgufVocabulary::id_of(const std::string& key) const {
  if (!checkpoint.meta.contains(key)) return -1;
  const int64_t id = checkpoint.integer(key);
  if (id < 0 || id >= static_cast<int64_t>(tokens.size())) {
    refuse(fmt::format("{} is {}, but there are {} tokens", key, id, tokens.size()));
  }
  return static_cast<int32_t>(id);
}

AddedTokens GgufVocabulary::added(const Added& which) const {
  std::vector<AddedToken> found;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] != TokenType::user_defined && !(which.control && hidden(id))) continue;
    const bool turn = hidden(id) && tokens[id].starts_with("<|") && tokens[id] != "<|endoftext|>";
    found.push_back({.text = which.marked && !hidden(id) ? marked(tokens[id]) : tokens[id],
                     .id = static_cast<int32_t>(id),
                     .rstrip = which.rstrip_turns && turn});
  }
  return AddedTokens(std::move(found));
}

GgufVocabulary read_gguf_vocabulary(const Checkpoint& checkpoint) {
  const std::vector<std::string>& tokens = read_tokens(checkpoint);
  GgufVocabulary result{.checkpoint = checkpoint, .tokens = tokens, .types = read_types(checkpoint, tokens.size())};
  result.bos = result.id_of("tokenizer.ggml.bos_token_id");
  for (const char* key : {"eos", "eot", "eom"}) {
    const int32_t id = result.id_of(fmt::format("tokenizer.ggml.{}_token_id", key));
    if (id >= 0) result.ends.push_back(id);
  }
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool may_end = result.types[id] == TokenType::control || result.types[id] == TokenType::user_defined;
    if (may_end && ends_a_turn(tokens[id])) result.ends.push_back(static_cast<int32_t>(id));
  }
  return result;
}

}  // namespace spillway

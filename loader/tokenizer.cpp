#include "loader/tokenizer.h"

#include <fmt/format.h>

#include <filesystem>

#include "loader/printable.h"
#include "loader/text/bpe_tokenizer.h"
#include "loader/text/json_tokenizer.h"
#include "loader/text/spm_tokenizer.h"

namespace spillway {
namespace {

std::filesystem::path folder_of(const Checkpoint& checkpoint) {
  return std::filesystem::path(checkpoint.path()).parent_path();
}

}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text;
  for (const int32_t id : ids) text += piece(id, special);
  if (writes_space_first() && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

bool has_tokenizer(const Checkpoint& checkpoint) {
  return checkpoint.meta.contains("tokenizer.ggml.model") || has_json_tokenizer(folder_of(checkpoint));
}

std::unique_ptr<Tokenizer> make_tokenizer(const Checkpoint& checkpoint) {
  if (!checkpoint.meta.contains("tokenizer.ggml.model")) {
    if (has_json_tokenizer(folder_of(checkpoint))) return read_json_tokenizer(folder_of(checkpoint));
    throw Error(
        ErrorKind::model,
        fmt::format("{}: the model brings no tokenizer: neither tokenizer.ggml.model in it, nor tokenizer.json (or "
                    "vocab.json with merges.txt) beside it",
                    checkpoint.path()));
  }
  const std::string model = checkpoint.text("tokenizer.ggml.model");
  if (model == "gpt2") return make_bpe_tokenizer(checkpoint);
  if (model == "llama") return make_spm_tokenizer(checkpoint);
  throw Error(ErrorKind::model, fmt::format("{}: the tokenizer \"{}\" (tokenizer.ggml.model) is not known; known: gpt2 "
                                            "(byte-level BPE), llama (SentencePiece's BPE)",
                                            checkpoint.path(), printable(model)));
}

}  // namespace spillway

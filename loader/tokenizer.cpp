#include "loader/tokenizer.h"

#include <fmt/format.h>

#include <filesystem>

#include "loader/printable.h"
#include "loader/text/bpe_tokenizer.h"
#include "loader/text/json_tokenizer.h"
#include "loader/text/spm_tokenizer.h"

namespace spillway {

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text;
  for (const int32_t id : ids) text += piece(id, special);
  if (writes_space_first() && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::unique_ptr<Tokenizer> make_tokenizer(const Checkpoint& checkpoint) {
  if (!checkpoint.meta.contains("tokenizer.ggml.model")) {
    const std::filesystem::path folder = std::filesystem::path(checkpoint.path()).parent_path();
    if (has_json_tokenizer(folder)) return read_json_tokenizer(folder);
    throw Error(ErrorKind::model,
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

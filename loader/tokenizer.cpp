#include "loader/tokenizer.h"

#include <fmt/format.h>

#include "loader/printable.h"
#include "loader/tokenizer_bpe.h"

namespace spillway {

std::string Tokenizer::decode(std::span<const int32_t> ids, bool special) const {
  std::string text;
  for (const int32_t id : ids) text += piece(id, special);
  return text;
}

std::unique_ptr<Tokenizer> make_tokenizer(const Checkpoint& checkpoint) {
  const std::string model = checkpoint.text("tokenizer.ggml.model");
  if (model == "gpt2") return make_bpe_tokenizer(checkpoint);
  throw Error(ErrorKind::model,
              fmt::format("{}: the tokenizer \"{}\" (tokenizer.ggml.model) is not known; known: gpt2 (byte-level BPE)",
                          checkpoint.path(), printable(model)));
}

}  // namespace spillway

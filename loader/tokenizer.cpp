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

// A tokenizer of more texts than the model has rows: Gemma 3's knows a token for images that the models of text alone
// lack. Such a file is no fault until a text has the token.
class RowsOf : public Tokenizer {
 public:
  RowsOf(const Checkpoint& checkpoint, const TensorInfo& embedding, std::unique_ptr<Tokenizer> all)
      : all_(std::move(all)),
        rows_(static_cast<int>(embedding.rows)),
        where_(tokenizer_path(checkpoint)),
        why_(fmt::format("{} of {} has {} rows", printable(embedding.name),
                         checkpoint.files[embedding.extent.file].path(), embedding.rows)) {}

  std::vector<int32_t> encode(std::string_view text, bool parse_special, bool add_bos) const override {
    std::vector<int32_t> ids = all_->encode(text, parse_special, add_bos);
    for (const int32_t id : ids) {
      if (id < rows_) continue;
      throw Error(ErrorKind::model, fmt::format("{}: the text has token {} (\"{}\"), which the model does not know: {}",
                                                where_, id, printable(all_->piece(id, true)), why_));
    }
    return ids;
  }
  std::string_view piece(int32_t id, bool special) const override { return all_->piece(id, special); }
  int vocab() const override { return rows_; }
  int32_t bos() const override { return all_->bos(); }
  bool is_end(int32_t id) const override { return all_->is_end(id); }
  bool writes_space_first() const override { return all_->writes_space_first(); }

 private:
  static std::string tokenizer_path(const Checkpoint& checkpoint) {
    if (checkpoint.meta.contains("tokenizer.ggml.model")) return checkpoint.path();
    return json_tokenizer_file(folder_of(checkpoint)).string();
  }

  std::unique_ptr<Tokenizer> all_;
  int rows_;
  std::string where_, why_;
};

[[noreturn]] void refuse_without(const Checkpoint& checkpoint) {
  if (checkpoint.config.empty()) {
    throw Error(
        ErrorKind::model,
        fmt::format("{}: the model brings no tokenizer: neither tokenizer.ggml.model in it, nor tokenizer.json (or "
                    "vocab.json with merges.txt) beside it",
                    checkpoint.path()));
  }
  std::error_code ignored;
  const std::filesystem::path folder = folder_of(checkpoint);
  const char* other =
      std::filesystem::exists(folder / "tokenizer.model", ignored)
          ? "; tokenizer.model alone is not read: save_pretrained of transformers' AutoTokenizer writes "
            "tokenizer.json"
          : "";
  throw Error(ErrorKind::model,
              fmt::format("{}: the model brings no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt{}",
                          folder.string(), other));
}

std::unique_ptr<Tokenizer> make_any(const Checkpoint& checkpoint) {
  if (!checkpoint.meta.contains("tokenizer.ggml.model")) {
    if (has_json_tokenizer(folder_of(checkpoint))) return read_json_tokenizer(folder_of(checkpoint));
    refuse_without(checkpoint);
  }
  const std::string model = checkpoint.text("tokenizer.ggml.model");
  if (model == "gpt2") return make_bpe_tokenizer(checkpoint);
  if (model == "llama") return make_spm_tokenizer(checkpoint);
  throw Error(ErrorKind::model, fmt::format("{}: the tokenizer \"{}\" (tokenizer.ggml.model) is not known; known: gpt2 "
                                            "(byte-level BPE), llama (SentencePiece's BPE)",
                                            checkpoint.path(), printable(model)));
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
  auto tokenizer = make_any(checkpoint);
  const TensorInfo* embedding = checkpoint.find("token_embd.weight");
  if (embedding == nullptr || embedding->rows >= tokenizer->vocab()) return tokenizer;
  return std::make_unique<RowsOf>(checkpoint, *embedding, std::move(tokenizer));
}

}  // namespace spillway

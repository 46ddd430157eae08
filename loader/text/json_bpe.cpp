#include "loader/text/json_bpe.h"

#include <fmt/format.h>

#include "loader/printable.h"
#include "loader/text/byte_alphabet.h"
#include "loader/text/json_fields.h"
#include "loader/text/utf8.h"
#include "loader/text/words.h"

namespace spillway {
namespace {

JsonFields model_of(const TokenizerJson& file) {
  const JsonFields root(file.tree, file.path);
  JsonFields model(root.value("model"), file.path + ": model");
  // Old files do not name the type.
  if (model.text("type", "BPE") != "BPE") model.refuse_type("BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text(key, "").empty()) model.refuse(fmt::format("a {} is not known here", key));
  }
  return model;
}

}  // namespace

JsonBpe::JsonBpe(const TokenizerJson& file, bool byte_level) : byte_level_(byte_level), ids_(file.texts.size()) {
  const JsonFields model = model_of(file);
  byte_fallback_ = model.flag("byte_fallback", false);
  fuse_unknown_ = model.flag("fuse_unk", false);
  ignore_merges_ = model.flag("ignore_merges", false);
  for (size_t i = 0; i < file.texts.size(); ++i) {
    ids_.add(file.texts[i], file.text_ids[i]);
    if (mark_inside(file.texts[i])) words_apart_ = false;
  }
  if (byte_level) words_apart_ = false;
  const std::string unknown = model.text("unk_token", "");
  if (!unknown.empty()) unknown_ = ids_.find(unknown);
  for (int byte = 0; byte < 256; ++byte) {
    byte_ids_[static_cast<size_t>(byte)] = ids_.find(
        byte_level ? std::string(byte_symbol(static_cast<unsigned char>(byte))) : fmt::format("<0x{:02X}>", byte));
  }
  if (ignore_merges_ && byte_level) {
    whole_ = std::make_unique<TextIds>(file.texts.size());
    std::vector<size_t> ends;
    for (size_t i = 0; i < file.texts.size(); ++i) {
      if (!append_bytes_of_symbols(file.texts[i], whole_bytes_)) whole_bytes_ += file.texts[i];
      ends.push_back(whole_bytes_.size());
    }
    for (size_t i = 0; i < ends.size(); ++i) {
      const size_t begin = i == 0 ? 0 : ends[i - 1];
      whole_->add(std::string_view(whole_bytes_).substr(begin, ends[i] - begin), file.text_ids[i]);
    }
  }
  read_merges(file);
}

void JsonBpe::read_merges(const TokenizerJson& file) {
  merges_ = std::make_unique<PairMerges>(file.merges.size() / 2);
  std::string joined;
  for (size_t i = 0; i + 1 < file.merges.size(); i += 2) {
    const std::string_view left = file.merges[i], right = file.merges[i + 1];
    joined.assign(left);
    joined.append(right);
    const int32_t left_id = ids_.find(left), right_id = ids_.find(right), merged = ids_.find(joined);
    if (left_id < 0 || right_id < 0 || merged < 0) {
      throw Error(ErrorKind::model, fmt::format("{}: the merge \"{} {}\" speaks of a token that does not exist",
                                                file.path, printable(left), printable(right)));
    }
    merges_->add(left_id, right_id, merged);
  }
}

void JsonBpe::append(std::string_view piece, WordCache& cache, std::vector<int32_t>& ids) const {
  std::vector<std::string_view> words;
  if (words_apart_) {
    split_words(piece, words);
  } else {
    words.push_back(piece);
  }
  const size_t begin = ids.size();
  for (const std::string_view one : words) {
    const size_t before = ids.size();
    cache.append(one, ids, [&](std::string_view word, std::vector<int32_t>& out) { merge(word, out); });
    const bool unknowns_meet = fuse_unknown_ && unknown_ >= 0 && before > begin && ids.size() > before &&
                               ids[before] == unknown_ && ids[before - 1] == unknown_;
    if (unknowns_meet) ids.erase(ids.begin() + static_cast<ptrdiff_t>(before));
  }
}

void JsonBpe::byte_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  for (const char c : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      symbols.push_back(id);
    } else if (unknown_ >= 0 && !(fuse_unknown_ && !symbols.empty() && symbols.back() == unknown_)) {
      symbols.push_back(unknown_);
    }
  }
}

void JsonBpe::character_symbols(std::string_view word, std::vector<int32_t>& symbols) const {
  for (size_t at = 0; at < word.size();) {
    const Utf8Char next = first_utf8(word.substr(at));
    const std::string_view character = word.substr(at, next.bytes);
    at += next.bytes;
    const int32_t id = ids_.find(character);
    if (id >= 0) {
      symbols.push_back(id);
      continue;
    }
    bool falls_back = byte_fallback_;
    for (const char c : character) falls_back = falls_back && byte_ids_[static_cast<unsigned char>(c)] >= 0;
    if (falls_back) {
      for (const char c : character) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (unknown_ >= 0 && !(fuse_unknown_ && !symbols.empty() && symbols.back() == unknown_)) {
      symbols.push_back(unknown_);
    }
  }
}

void JsonBpe::merge(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t whole = (whole_ ? *whole_ : ids_).find(word);
    if (whole >= 0) {
      ids.push_back(whole);
      return;
    }
  }
  std::vector<int32_t> symbols;
  if (byte_level_) {
    byte_symbols(word, symbols);
  } else {
    character_symbols(word, symbols);
  }
  merges_->apply(symbols, ids);
}

}  // namespace spillway

// JSON out of a model's folder: bounded in size, depth and number of values, so that a hostile file takes no more
// memory than a small multiple of its size. The two lists that make up most of a tokenizer.json never become a tree.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spillway {

// Texts one after the other in one block.
class TextList {
 public:
  void add(std::string_view text) {
    bytes_ += text;
    ends_.push_back(bytes_.size());
  }
  size_t size() const { return ends_.size(); }
  std::string_view operator[](size_t i) const {
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(bytes_).substr(begin, ends_[i] - begin);
  }

 private:
  std::string bytes_;
  std::vector<size_t> ends_;
};

struct TokenizerJson {
  std::string path;
  nlohmann::json tree;            // all but the two:
  TextList texts;                 // model.vocab: the texts
  std::vector<int32_t> text_ids;  // and their ids
  TextList merges;                // model.merges: left and right of each in turn
};

// The whole of a text file. Error(model) when it cannot be read, or is larger than 256 MiB.
std::string read_model_text(const std::filesystem::path& path);

// Error(model) names the file and what is wrong.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);
// vocab.json and merges.txt, as GPT-2 brought them in: the same, with the tree that such a folder stands for.
TokenizerJson read_vocab_and_merges(const std::filesystem::path& folder);

// A small file; null when there is none.
nlohmann::json read_small_json(const std::filesystem::path& path);

}  // namespace spillway

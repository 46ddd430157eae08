#include "tests/fuzz/tokenizer_json_case.h"

#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels/check.h"
#include "loader/text/json_tokenizer.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/parts.h"

namespace spillway {
namespace {

// In the order of the parts.
constexpr const char* kFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "vocab.json",
    "merges.txt"};

}  // namespace

bool try_tokenizer_json(std::span<const std::byte> bytes) {
  const auto parts = parts_of(bytes, std::size(kFiles));
  const Folder folder;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].empty()) folder.put(kFiles[i], parts[i]);
  }
  try {
    const auto tokenizer = read_json_tokenizer(folder.path());
    for (const char* text :
         {"", "abc ab  a1, don't\n\xf0\x9f\x99\x82 \xff e\xcc\x81<s>\xe2\x96\x81x", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}) {
      for (const bool special : {false, true}) {
        const auto ids = tokenizer->encode(text, special);
        for (const int32_t id : ids) {
          if (id < 0 || id >= tokenizer->vocab()) throw std::runtime_error("an id outside the vocabulary");
          tokenizer->is_end(id);
        }
        tokenizer->decode(ids, special);
      }
    }
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;
    return false;
  }
}

}  // namespace spillway

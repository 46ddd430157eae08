#include "tests/fuzz/tokenizer_json_case.h"

#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels/check.h"
#include "loader/chat_template.h"
#include "loader/text/json_tokenizer.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/parts.h"

namespace spillway {
namespace {

// In the order of the parts.
constexpr const char* kFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "vocab.json",
    "merges.txt"};

// The template of the folder, if there is one. It may refuse a conversation in its own words.
void use_template(const Folder& folder) {
  Checkpoint checkpoint;
  checkpoint.files.push_back(File::open_read(folder.put("model.safetensors", std::as_bytes(std::span("x")))));
  try {
    const ChatMessage message{"user", "abc"};
    ChatTemplate::from(checkpoint).render({&message, 1}, true);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model && error.kind() != ErrorKind::usage) throw;
  }
}

}  // namespace

bool try_tokenizer_json(std::span<const std::byte> bytes) {
  const auto parts = parts_of(bytes, std::size(kFiles));
  const Folder folder;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].empty()) folder.put(kFiles[i], parts[i]);
  }
  use_template(folder);
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

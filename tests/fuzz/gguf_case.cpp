#include "tests/fuzz/gguf_case.h"

#include <stdexcept>
#include <string>

#include "loader/chat_template.h"
#include "loader/model_spec.h"
#include "loader/tokenizer.h"
#include "tests/fuzz/extents.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/memory_file.h"

namespace spillway {
namespace {

// False when the step refuses the model.
template <typename Step>
bool allowed(const Step& step, bool usage_too = false) {
  try {
    step();
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model && !(usage_too && error.kind() == ErrorKind::usage)) throw;
    return false;
  }
}

void use_tokenizer(const Checkpoint& checkpoint) {
  const auto tokenizer = make_tokenizer(checkpoint);
  const std::string text = "abc ab  a1, don't\n\xf0\x9f\x99\x82 \xff<|im_start|>user<|im_end|>";
  const auto ids = tokenizer->encode(text, true);
  for (const int32_t id : ids) {
    if (id < 0 || id >= tokenizer->vocab()) throw std::runtime_error("an id outside the vocabulary");
    tokenizer->is_end(id);
  }
  Utf8Stream stream;
  for (const int32_t id : ids) stream.push(tokenizer->piece(id));
  stream.finish();
  tokenizer->piece(-1);
  tokenizer->piece(tokenizer->vocab(), true);
}

bool try_path(const std::string& path) {
  return allowed([&] {
    const Checkpoint checkpoint = open_gguf(path);
    check_extents(checkpoint);
    allowed([&] { check_extents(checkpoint, read_model_spec(checkpoint)); });
    allowed([&] { use_tokenizer(checkpoint); });
    // A template may refuse a conversation in its own words.
    allowed(
        [&] {
          const ChatMessage message{"user", "abc"};
          ChatTemplate::from(checkpoint).render({&message, 1}, true);
        },
        true);
  });
}

}  // namespace

bool try_gguf(std::span<const std::byte> bytes) {
  if (bytes.empty() || bytes[0] != std::byte{'2'}) return try_path(MemoryFile(bytes).path());
  const auto parts = bytes.subspan(1);
  const Folder folder;
  folder.put("m-00002-of-00002.gguf", parts.subspan(parts.size() / 2));
  return try_path(folder.put("m-00001-of-00002.gguf", parts.first(parts.size() / 2)));
}

}  // namespace spillway

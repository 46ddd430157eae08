#include "tests/fuzz/gguf_case.h"

#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "loader/chat_template.h"
#include "loader/model_spec.h"
#include "loader/tokenizer.h"

namespace spillway {
namespace {

class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::byte> bytes) : descriptor_(memfd_create("case.gguf", MFD_CLOEXEC)) {
    if (descriptor_ < 0) throw std::runtime_error("memfd_create failed");
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t count = write(descriptor_, bytes.data() + done, bytes.size() - done);
      if (count <= 0) throw std::runtime_error("cannot write the case");
      done += static_cast<size_t>(count);
    }
  }
  MemoryFile(const MemoryFile&) = delete;
  ~MemoryFile() { close(descriptor_); }
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

// False when the step refuses the model.
template <typename Step>
bool allowed(const Step& step) {
  try {
    step();
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::model) throw;
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

}  // namespace

bool try_gguf(std::span<const std::byte> bytes) {
  const MemoryFile file(bytes);
  return allowed([&] {
    const Checkpoint checkpoint = open_gguf(file.path());
    for (const auto& [name, tensor] : checkpoint.tensors) {
      const Extent& extent = tensor.extent;
      const uint64_t end = extent.offset + extent.bytes;
      if (end < extent.offset || end > bytes.size()) throw std::runtime_error("a tensor outside the file: " + name);
    }
    allowed([&] { read_model_spec(checkpoint); });
    allowed([&] { use_tokenizer(checkpoint); });
    allowed([&] {
      const ChatMessage message{"user", "abc"};
      ChatTemplate::from(checkpoint).render({&message, 1}, true);
    });
  });
}

}  // namespace spillway

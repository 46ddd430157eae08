#include "tests/fuzz/tokenizer_json_case.h"

#include <filesystem>
#include <stdexcept>
#include <string>

#include "kernels/check.h"
#include "loader/text/json_tokenizer.h"
#include "tests/fuzz/memory_file.h"

namespace spillway {
namespace {

// A folder whose tokenizer.json is a link to the case.
class Folder {
 public:
  explicit Folder(const std::string& target) {
    std::string name = (std::filesystem::temp_directory_path() / "spillway-fuzz-XXXXXX").string();
    if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp failed");
    path = name;
    std::filesystem::create_symlink(target, path / "tokenizer.json");
  }
  Folder(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path); }

  std::filesystem::path path;
};

}  // namespace

bool try_tokenizer_json(std::span<const std::byte> bytes) {
  const MemoryFile file(bytes);
  const Folder folder(file.path());
  try {
    const auto tokenizer = read_json_tokenizer(folder.path);
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

// WholeFile: a file that appears whole or not at all. It is written under a temporary name beside the target, and
// commit() makes it durable and gives it its name; without commit() nothing is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace spillway {

class WholeFile {
 public:
  // A link is followed to what it names. A target that is not a regular file (/dev/null, a pipe) is written in place.
  // `mode` as open() takes it, before the umask. Throws Error(io) naming the path.
  explicit WholeFile(const std::string& path, unsigned mode = 0666);
  ~WholeFile();
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;

  const std::string& path() const { return path_; }
  void write(std::string_view bytes);
  // Overwrites bytes that were already written; Error(io) where the target is a pipe.
  void write_at(uint64_t offset, std::string_view bytes);
  // fsync, rename, fsync of the folder. Nothing may be written after it.
  void commit();

 private:
  [[noreturn]] void fail(const char* what) const;
  std::string path_;
  std::string temporary_;  // empty: written in place
  int descriptor_ = -1;
};

}  // namespace spillway

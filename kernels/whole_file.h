// WholeFile: a file that appears whole or not at all. It is written without a name in the target's folder (O_TMPFILE,
// open(2)), and commit() makes it durable and gives it its name; without commit() nothing is left, whatever ends the
// process. A file system that has no such files (NFS, FAT) holds it under a temporary name beside the target: there a
// death by a signal leaves that behind (TARGET.PID-N.tmp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace spillway {

class WholeFile {
 public:
  // A link is followed() to what it names. A target that is not a regular file (/dev/null, a pipe) is written in
  // place. `mode` as open() takes it, before the umask; not given: the permissions of what is replaced, else 0666.
  // Throws Error(io) naming the path.
  explicit WholeFile(const std::string& path, std::optional<unsigned> mode = {});
  ~WholeFile();
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;

  const std::string& path() const { return path_; }
  void write(std::string_view bytes);
  // Overwrites bytes that were already written; Error(io) where the target is a pipe.
  void write_at(uint64_t offset, std::string_view bytes);
  // fsync, the name, fsync of the folder. Nothing may be written after it.
  void commit();

 private:
  [[noreturn]] void fail(const char* what) const;
  void give_name();
  std::string path_;
  std::string temporary_;  // the name that it has beside the target; empty: none
  bool in_place_ = true;
  int descriptor_ = -1;
};

// What `path` is in the end where it is a symbolic link, though nothing be there; else `path` as it is. Throws
// Error(usage) where links lead in a circle.
std::string followed(const std::string& path);

// fsync of the folder that a file is in, so that its name is there after a crash. A folder that may not be read, or a
// file system that refuses, has nothing better to offer.
void sync_folder_of(const std::string& path);

}  // namespace spillway

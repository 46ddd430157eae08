// File: one open file, with a second descriptor for O_DIRECT where the file system allows it.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace spillway {

class File {
 public:
  // Opens for reading. Throws Error(model) when it is missing, a folder, or may not be read.
  static File open_read(const std::string& path);
  // An unnamed file of mode 0600 in `directory` (O_TMPFILE, or created and unlinked at once where that is refused),
  // with `bytes` reserved on the drive. Throws Error(io) naming the directory when it cannot be had.
  static File make_unnamed(const std::string& directory, uint64_t bytes);

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  uint64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }
  // -1 where O_DIRECT is refused (tmpfs on old kernels, some network file systems).
  int direct_descriptor() const { return direct_; }
  // Through the page cache; throws Error(model) naming path and offset past the end, Error(io) when the drive fails.
  void read(uint64_t offset, std::span<std::byte> into) const;

 private:
  File() = default;
  std::string path_;
  uint64_t bytes_ = 0;
  int descriptor_ = -1;
  int direct_ = -1;
};

}  // namespace spillway

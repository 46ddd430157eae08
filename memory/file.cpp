#include "memory/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "kernels/check.h"

namespace spillway {
namespace {

// A descriptor of the same file with O_DIRECT, or -1. The name may have gone (or come to mean another file): /proc
// names the open file itself.
int reopen_direct(int descriptor, int access) {
  return ::open(fmt::format("/proc/self/fd/{}", descriptor).c_str(), access | O_DIRECT | O_CLOEXEC);
}

// Nothing where the file system does not say (tmpfs without a limit, some network file systems).
std::optional<uint64_t> free_bytes(const std::string& directory) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0 || info.f_blocks == 0) return std::nullopt;
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

[[noreturn]] void refuse_directory(const std::string& directory, int error) {
  struct stat info {};
  if (error == ENOENT && ::stat(directory.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) {  // /proc
    throw Error(ErrorKind::io, fmt::format("cannot create a file in {}: its file system takes none", directory));
  }
  if (error == ENOENT) throw Error(ErrorKind::io, fmt::format("no such folder: {}", directory));
  if (error == ENOTDIR) throw Error(ErrorKind::io, fmt::format("not a folder: {}", directory));
  throw Error(ErrorKind::io, fmt::format("cannot create a file in {}: {}", directory, strerror(error)));
}

// A file that is gone once its last descriptor is closed, whatever ends the process.
int create_unnamed(const std::string& directory) {
  int descriptor = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor >= 0) return descriptor;
  // File systems without O_TMPFILE say EOPNOTSUPP, kernels without it EISDIR.
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) refuse_directory(directory, errno);
  std::string name = directory + "/.spillway-XXXXXX";
  descriptor = ::mkostemp(name.data(), O_CLOEXEC);  // O_EXCL, mode 0600
  if (descriptor < 0) refuse_directory(directory, errno);
  ::unlink(name.c_str());
  return descriptor;
}

[[noreturn]] void refuse_for_space(const std::string& directory, uint64_t bytes) {
  const std::optional<uint64_t> free = free_bytes(directory);
  throw Error(ErrorKind::io, fmt::format("no space left for {} bytes in {}{}", bytes, directory,
                                         free ? fmt::format(": {} bytes are free", *free) : ""));
}

void reserve(int descriptor, const std::string& directory, uint64_t bytes) {
  rlimit limit{};
  // Past this limit the kernel would send SIGXFSZ rather than an error.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur) {
    throw Error(ErrorKind::io, fmt::format("cannot reserve {} bytes in {}: the limit for one file is {} (ulimit -f)",
                                           bytes, directory, static_cast<uint64_t>(limit.rlim_cur)));
  }
  // Asked first: some file systems fill the drive to the brim before they say that it does not hold the whole.
  if (bytes > free_bytes(directory).value_or(UINT64_MAX)) refuse_for_space(directory, bytes);
  if (bytes == 0) return;
  const auto size = static_cast<off_t>(bytes);
  int result = 0;
  do {
    result = ::fallocate(descriptor, 0, 0, size);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ::ftruncate(descriptor, size);
  if (result == 0) return;
  if (errno == ENOSPC || errno == EDQUOT) refuse_for_space(directory, bytes);
  throw Error(ErrorKind::io, fmt::format("cannot reserve {} bytes in {}: {}", bytes, directory, strerror(errno)));
}

}  // namespace

File File::open_read(const std::string& path) {
  struct stat info {};
  // Looked at before it is opened: opening a pipe would wait for its other end.
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) throw Error(ErrorKind::model, fmt::format("no such file: {}", path));
    throw Error(ErrorKind::model, fmt::format("cannot open {}: {}", path, strerror(errno)));
  }
  if (S_ISDIR(info.st_mode)) throw Error(ErrorKind::model, fmt::format("a folder, not a file: {}", path));
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::model, fmt::format("not a regular file: {}", path));
  File file;
  file.path_ = path;
  file.descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.descriptor_ < 0 || ::fstat(file.descriptor_, &info) != 0) {
    throw Error(ErrorKind::model, fmt::format("cannot open {}: {}", path, strerror(errno)));
  }
  if (info.st_size == 0) throw Error(ErrorKind::model, fmt::format("file is empty: {}", path));
  file.bytes_ = static_cast<uint64_t>(info.st_size);
  file.direct_ = reopen_direct(file.descriptor_, O_RDONLY);
  return file;
}

File File::make_unnamed(const std::string& directory, uint64_t bytes) {
  SPILLWAY_CHECK(bytes <= INT64_MAX);
  File file;
  file.path_ = "unnamed file in " + directory;
  file.descriptor_ = create_unnamed(directory);
  reserve(file.descriptor_, directory, bytes);
  file.bytes_ = bytes;
  file.direct_ = reopen_direct(file.descriptor_, O_RDWR);
  return file;
}

File::File(File&& other) noexcept { *this = std::move(other); }

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(direct_, other.direct_);
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (direct_ >= 0) ::close(direct_);
}

void File::read(uint64_t offset, std::span<std::byte> into) const {
  if (offset > bytes_ || into.size() > bytes_ - offset) {
    throw Error(ErrorKind::model,
                fmt::format("file ends at {}, {} bytes wanted at {}: {}", bytes_, into.size(), offset, path_));
  }
  while (!into.empty()) {
    const ssize_t got = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw Error(ErrorKind::io, fmt::format("cannot read {} at {}: {}", path_, offset, strerror(errno)));
    if (got == 0) throw Error(ErrorKind::model, fmt::format("file is shorter than it was: {} at {}", path_, offset));
    into = into.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
}

}  // namespace spillway

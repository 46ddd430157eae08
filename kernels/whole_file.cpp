#include "kernels/whole_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr int kMostLinks = 40;  // as Linux follows (path_resolution(7))

std::string temporary_name(const std::string& path) {
  static std::atomic<unsigned> count{0};
  return path + "." + std::to_string(getpid()) + "-" + std::to_string(count++) + ".tmp";
}

std::string folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

// The name of an open file by which it can be given another. It needs /proc.
std::string open_name(int descriptor) { return "/proc/self/fd/" + std::to_string(descriptor); }

bool link_to(int descriptor, const std::string& name) {
  return ::linkat(AT_FDCWD, open_name(descriptor).c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

// -1 where the file system has no files without a name (or such a file could not be named later).
int open_unnamed(const std::string& path, unsigned mode) {
  const int descriptor = ::open(folder_of(path).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
  if (descriptor < 0 || ::access(open_name(descriptor).c_str(), F_OK) == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

std::string followed(const std::string& path) {
  std::filesystem::path now = path;
  std::error_code error;
  for (int links = 0; std::filesystem::is_symlink(now, error); ++links) {
    if (links == kMostLinks) throw Error(ErrorKind::usage, path + ": too many symbolic links");
    now = now.parent_path() / std::filesystem::read_symlink(now, error);  // an absolute one takes the place of all
    if (error) throw Error(ErrorKind::usage, path + ": " + error.message());
  }
  return now;
}

void sync_folder_of(const std::string& path) {
  const int descriptor = ::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  static_cast<void>(::fsync(descriptor));
  ::close(descriptor);
}

WholeFile::WholeFile(const std::string& path, std::optional<unsigned> mode) : path_(followed(path)) {
  struct stat status {};
  const bool there = ::stat(path_.c_str(), &status) == 0;
  if (there && !S_ISREG(status.st_mode)) {
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor_ < 0) fail("cannot be written");
    return;
  }
  in_place_ = false;
  descriptor_ = open_unnamed(path_, mode.value_or(0666));
  if (descriptor_ < 0) {
    temporary_ = temporary_name(path_);
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode.value_or(0666));
  }
  if (descriptor_ < 0) fail("cannot be created");
  // Somebody else's file may be replaced without the right to its permissions: then it has those of a new one.
  if (there && !mode) static_cast<void>(!::fchmod(descriptor_, status.st_mode & ALLPERMS));
}

WholeFile::~WholeFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void WholeFile::fail(const char* what) const {
  throw Error(ErrorKind::io, path_ + ": " + what + ": " + std::strerror(errno));
}

void WholeFile::write(std::string_view bytes) {
  SPILLWAY_CHECK(descriptor_ >= 0);
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

void WholeFile::write_at(uint64_t offset, std::string_view bytes) {
  SPILLWAY_CHECK(descriptor_ >= 0);
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
}

// linkat() replaces nothing: where a file is to be replaced, a name that rename() can move comes between.
void WholeFile::give_name() {
  if (temporary_.empty()) {
    if (link_to(descriptor_, path_)) return;
    std::string between = temporary_name(path_);
    if (errno != EEXIST || !link_to(descriptor_, between)) fail("cannot be given its name");
    temporary_ = std::move(between);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be given its name");
  temporary_.clear();
}

void WholeFile::commit() {
  SPILLWAY_CHECK(descriptor_ >= 0);
  if (!in_place_) {
    if (::fsync(descriptor_) != 0) fail("cannot be written");
    give_name();
    sync_folder_of(path_);  // the name is durable once its folder is
  }
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("cannot be written");
}

}  // namespace spillway

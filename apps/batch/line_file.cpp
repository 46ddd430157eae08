#include "apps/batch/line_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr size_t kBufferBytes = 1 << 20;
constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

bool blank(std::string_view text) { return text.find_first_not_of(" \t\r\v\f") == std::string_view::npos; }

}  // namespace

LineFile::LineFile(const std::string& flag, const std::string& path, size_t most_line_bytes)
    : flag_(flag), path_(path), most_(most_line_bytes), buffer_(kBufferBytes), hash_(XXH3_createState()) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe without a writer would wait
  const auto refuse = [&](const std::string& what) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw Error(ErrorKind::usage, fmt::format("{} {}: {}", flag, path, what));
  };
  if (descriptor_ < 0 || ::fstat(descriptor_, &opened_) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(opened_.st_mode)) refuse("a file is wanted, for a batch reads its input twice, and again when resumed");
  rewind();
}

LineFile::~LineFile() { ::close(descriptor_); }

void LineFile::rewind() {
  if (::lseek(descriptor_, 0, SEEK_SET) != 0) throw Error(ErrorKind::io, path_ + ": " + std::strerror(errno));
  at_ = end_ = 0;
  read_ = {};
  XXH3_64bits_reset(hash_.get());
}

void LineFile::check_unchanged() const {
  struct stat now {};
  if (::fstat(descriptor_, &now) != 0) throw Error(ErrorKind::io, path_ + ": " + std::strerror(errno));
  const bool same = now.st_size == opened_.st_size && now.st_mtim.tv_sec == opened_.st_mtim.tv_sec &&
                    now.st_mtim.tv_nsec == opened_.st_mtim.tv_nsec;
  if (!same) refuse_change();
}

void LineFile::refuse_change() const {
  throw Error(ErrorKind::usage, fmt::format("{} {}: it changed while it was read; what is written answers what it was "
                                            "at the beginning, and is gone on with only when it is that again",
                                            flag_, path_));
}

bool LineFile::fill() {
  const size_t most = std::min<uint64_t>(buffer_.size(), end_of_file_ - read_.bytes);
  ssize_t count = 0;
  do {
    count = ::read(descriptor_, buffer_.data(), most);
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw Error(ErrorKind::io, fmt::format("{}: {}", path_, std::strerror(errno)));
  check_unchanged();
  at_ = 0;
  end_ = static_cast<size_t>(count);
  read_.bytes += end_;
  XXH3_64bits_update(hash_.get(), buffer_.data(), end_);
  return end_ > 0;
}

bool LineFile::next(Line& line) {
  for (;;) {
    line.text.clear();
    line.too_long = false;
    bool any = false, whole = false, empty = true;
    while (!whole && (at_ < end_ || fill())) {
      if (!any && read_.lines == 0 && std::string_view(buffer_.data() + at_, end_ - at_).starts_with(kByteOrderMark)) {
        at_ += kByteOrderMark.size();
      }
      any = true;
      const char* begin = buffer_.data() + at_;
      const auto* stop = static_cast<const char*>(std::memchr(begin, '\n', end_ - at_));
      const size_t bytes = stop == nullptr ? end_ - at_ : static_cast<size_t>(stop - begin);
      whole = stop != nullptr;
      at_ += bytes + (whole ? 1 : 0);
      empty = empty && blank({begin, bytes});
      line.too_long = line.too_long || line.text.size() + bytes > most_;
      if (!line.too_long) line.text.append(begin, bytes);
    }
    if (!any) return false;
    line.number = ++read_.lines;
    if (line.too_long) std::string().swap(line.text);  // its memory too
    if (empty) continue;
    line.request = read_.requests++;
    return true;
  }
}

Survey LineFile::so_far() const {
  Survey result = read_;
  result.hash = XXH3_64bits_digest(hash_.get());
  return result;
}

Survey LineFile::survey() {
  end_of_file_ = UINT64_MAX;
  rewind();
  Line line;
  while (next(line)) {
  }
  const Survey result = so_far();
  end_of_file_ = result.bytes;
  rewind();
  return result;
}

}  // namespace spillway

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
    : path_(path), most_(most_line_bytes), buffer_(kBufferBytes), hash_(XXH3_createState()) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe without a writer would wait
  struct stat status {};
  const auto refuse = [&](const std::string& what) {
    if (descriptor_ >= 0) ::close(descriptor_);
    throw Error(ErrorKind::usage, fmt::format("{} {}: {}", flag, path, what));
  };
  if (descriptor_ < 0 || ::fstat(descriptor_, &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode)) refuse("a file is wanted, for a batch reads its input twice, and again when resumed");
  rewind();
}

LineFile::~LineFile() { ::close(descriptor_); }

void LineFile::rewind() {
  if (::lseek(descriptor_, 0, SEEK_SET) != 0) throw Error(ErrorKind::io, path_ + ": " + std::strerror(errno));
  at_ = end_ = 0;
  read_ = {};
  XXH3_64bits_reset(hash_.get());
}

bool LineFile::fill() {
  ssize_t count = 0;
  do {
    count = ::read(descriptor_, buffer_.data(), buffer_.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw Error(ErrorKind::io, fmt::format("{}: {}", path_, std::strerror(errno)));
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
    if (line.number == 1 && line.text.starts_with(kByteOrderMark)) {
      line.text.erase(0, kByteOrderMark.size());
      empty = blank(line.text) && !line.too_long;
    }
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
  rewind();
  Line line;
  while (next(line)) {
  }
  const Survey result = so_far();
  rewind();
  return result;
}

}  // namespace spillway

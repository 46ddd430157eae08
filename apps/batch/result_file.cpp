#include "apps/batch/result_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/check.h"

namespace spillway {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

[[noreturn]] void fail(const std::string& path, int error) {
  throw Error(ErrorKind::io, fmt::format("{}: {}", path, std::strerror(error)));
}

}  // namespace

uint64_t read_results(const std::string& path, uint64_t input_hash, uint64_t lines,
                      const std::function<void(const ResultPlace&)>& each) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path, errno);
  std::vector<bool> seen(lines + 1);
  std::string text;
  ResultPlace place;
  uint64_t number = 0, whole = 0, zeros = 0;
  while (std::getline(in, text)) {
    ++number;
    if (in.eof()) break;  // a death tears the last line
    // One of the machine may leave zeros in place of what was never written back, to the end of the file.
    if (text.find('\0') != std::string::npos) {
      if (zeros == 0) zeros = number;
      continue;
    }
    if (zeros == 0 && text.find_first_not_of(" \t\r") == std::string::npos) {
      whole += text.size() + 1;
      continue;
    }
    const auto head = text.size() < UINT32_MAX ? read_result_line(text) : std::nullopt;
    if (zeros > 0) {
      if (!head) continue;
      throw Error(ErrorKind::usage,
                  fmt::format("{}: line {} holds bytes of zero, and results follow it: take that line out, and what it "
                              "answered is asked again",
                              path, zeros));
    }
    const char* wrong = !head || head->input_hash != input_hash || head->line > lines ? "is no result of this input"
                        : seen[head->line] ? "answers a line that has an answer"
                                           : nullptr;
    if (wrong != nullptr) throw Error(ErrorKind::usage, fmt::format("{}: line {} {}", path, number, wrong));
    seen[head->line] = true;
    place = {
        .line = head->line, .offset = whole, .bytes = static_cast<uint32_t>(text.size() + 1), .failed = head->failed};
    each(place);
    whole += place.bytes;
  }
  if (in.bad()) fail(path, EIO);
  return whole;
}

ResultWriter::ResultWriter(const std::string& to) : to_(to) {
  const std::string name = temporary_name(to);
  descriptor_ = ::open(name.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(name, errno);
  struct stat before {};
  if (::stat(to.c_str(), &before) != 0 || ::fchmod(descriptor_, before.st_mode & ALLPERMS) == 0) return;
  const int error = errno;
  ::close(descriptor_);
  ::unlink(name.c_str());
  fail(name, error);
}

ResultWriter::~ResultWriter() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_name(to_).c_str());
}

void ResultWriter::copy(int from, const ResultPlace& place) {
  const size_t before = buffer_.size();
  buffer_.resize(before + place.bytes);
  size_t done = 0;
  while (done < place.bytes) {
    const ssize_t count =
        ::pread(from, buffer_.data() + before + done, place.bytes - done, static_cast<off_t>(place.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(to_, count < 0 ? errno : EIO);
    done += static_cast<size_t>(count);
  }
  if (buffer_.size() >= kBufferBytes) flush();
}

void ResultWriter::flush() {
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t count = ::write(descriptor_, buffer_.data() + done, buffer_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(temporary_name(to_), errno);
    done += static_cast<size_t>(count);
  }
  buffer_.clear();
}

void ResultWriter::finish() {
  flush();
  const std::string name = temporary_name(to_);
  if (::fsync(descriptor_) != 0) fail(name, errno);
  ::close(descriptor_);
  descriptor_ = -1;
  if (::rename(name.c_str(), to_.c_str()) != 0) {
    const int error = errno;
    ::unlink(name.c_str());
    fail(to_, error);
  }
  sync_folder_of(to_);
}

void sync_folder_of(const std::string& path) {
  const std::string folder = std::filesystem::absolute(path).parent_path();
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;  // it may not be read; the file itself is safe
  ::fsync(descriptor);         // some network file systems refuse, and need it not
  ::close(descriptor);
}

}  // namespace spillway

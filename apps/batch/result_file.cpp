#include "apps/batch/result_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "kernels/check.h"

namespace spillway {
namespace {

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

void copy_result(int from, const ResultPlace& place, WholeFile& to) {
  std::string text(place.bytes, '\0');
  for (size_t done = 0; done < text.size();) {
    const ssize_t count =
        ::pread(from, text.data() + done, text.size() - done, static_cast<off_t>(place.offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(to.path(), count < 0 ? errno : EIO);
    done += static_cast<size_t>(count);
  }
  to.write(text);
}

}  // namespace spillway

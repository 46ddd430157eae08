#include "apps/output.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "apps/environment.h"
#include "kernels/check.h"

namespace spillway {
namespace {

[[noreturn]] void fail(int error) {
  throw Error(ErrorKind::io, fmt::format("standard output: {}", std::strerror(error)));
}

}  // namespace

void put(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail(errno);
}

void flush_output() {
  errno = 0;
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) fail(errno != 0 ? errno : EIO);
}

bool colors_standard_output(bool no_color) {
  const std::string term = environment("TERM");
  return !no_color && isatty(STDOUT_FILENO) == 1 && !term.empty() && term != "dumb" && environment("NO_COLOR").empty();
}

}  // namespace spillway

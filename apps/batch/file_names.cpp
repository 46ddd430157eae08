#include "apps/batch/file_names.h"

#include <fmt/format.h>

#include <filesystem>

#include "apps/batch/job_record.h"
#include "kernels/check.h"
#include "kernels/whole_file.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error)) return true;
  const auto whole = [](const std::string& path) {
    std::error_code ignored;
    return fs::weakly_canonical(fs::absolute(followed(path), ignored), ignored);
  };
  return whole(a) == whole(b);  // of which none, or one, is there yet
}

}  // namespace

void refuse_same(const NamedFile& read, const NamedFile& written) {
  if (read.path.empty() || written.path.empty() || !same_file(read.path, written.path)) return;
  throw Error(ErrorKind::usage, fmt::format("{} and {} are the same file, {}", read.flag, written.flag, read.path));
}

void refuse_written(const NamedFile& read, const NamedFile& output) {
  refuse_same(read, output);
  if (read.path.empty() || !same_file(read.path, JobRecord::name(output.path))) return;
  throw Error(ErrorKind::usage, fmt::format("{} {}: {} writes this file beside its own: give another name", read.flag,
                                            read.path, output.flag));
}

void check_output(const std::string& output) {
  std::error_code ignored;
  const fs::file_type type = fs::status(output, ignored).type();
  if (type == fs::file_type::directory) throw Error(ErrorKind::usage, fmt::format("-o {}: is a directory", output));
  const bool fits = type == fs::file_type::regular || type == fs::file_type::not_found || type == fs::file_type::none;
  if (!fits) throw Error(ErrorKind::usage, fmt::format("-o {}: a file is wanted", output));
}

}  // namespace spillway

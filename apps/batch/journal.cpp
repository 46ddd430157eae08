#include "apps/batch/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "apps/batch/result_file.h"
#include "kernels/check.h"
#include "kernels/whole_file.h"

namespace spillway {
namespace {

constexpr std::chrono::seconds kSyncEvery{3};

}  // namespace

Journal::Journal(const std::string& output, JobRecord record, bool retry_failed)
    : output_(output), record_(std::move(record)), done_(record_.facts().input.lines + 1) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on the file's size is an error of the write then, and no death
  open();
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) throw Error(ErrorKind::io, output_ + ": " + std::strerror(errno));
  if (!S_ISREG(status.st_mode)) throw Error(ErrorKind::usage, fmt::format("-o {}: a file is wanted", output_));
  const Survey& input = record_.facts().input;
  bytes_ = read_results(output_, input.hash, input.lines, [&](const ResultPlace& place) {
    done_[place.line] = true;
    ++answered_;
    failed_ += place.failed ? 1 : 0;
  });
  cut_bytes_ = static_cast<uint64_t>(status.st_size) - bytes_;
  if (cut_bytes_ > 0 && ::ftruncate(descriptor_, static_cast<off_t>(bytes_)) != 0) {
    throw Error(ErrorKind::io, fmt::format("{}: {}", output_, std::strerror(errno)));
  }
  if (retry_failed && failed_ > 0) rewrite(false, true);
}

Journal::~Journal() {
  if (descriptor_ < 0) return;
  if (unsynced_) ::fdatasync(descriptor_);  // on the way out of an error, of which the first is told
  ::close(descriptor_);
}

void Journal::open() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = ::open(output_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw Error(ErrorKind::usage, fmt::format("-o {}: {}", output_, std::strerror(errno)));
  sync_folder_of(output_);
  synced_ = std::chrono::steady_clock::now();
}

void Journal::append(uint64_t line, std::string_view text, bool failed) {
  SPILLWAY_CHECK(!done(line));
  std::string whole(text);
  whole += '\n';
  for (size_t written = 0; written < whole.size();) {
    const ssize_t count =
        ::pwrite(descriptor_, whole.data() + written, whole.size() - written, static_cast<off_t>(bytes_ + written));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = count < 0 ? errno : ENOSPC;
      // A rerun would cut it off too.
      static_cast<void>(!::ftruncate(descriptor_, static_cast<off_t>(bytes_)));
      throw Error(ErrorKind::io, fmt::format("{}: {}; the {} results that it has are whole, and the same command goes "
                                             "on from there",
                                             output_, std::strerror(error), answered_));
    }
    written += static_cast<size_t>(count);
  }
  bytes_ += whole.size();
  done_[line] = true;
  ++answered_;
  failed_ += failed ? 1 : 0;
  unsynced_ = true;
  tick();
}

void Journal::tick() {
  if (unsynced_ && std::chrono::steady_clock::now() - synced_ >= kSyncEvery) sync();
}

void Journal::sync() {
  if (::fdatasync(descriptor_) != 0) {
    throw Error(ErrorKind::io, fmt::format("{}: {}", output_, std::strerror(errno)));
  }
  unsynced_ = false;
  synced_ = std::chrono::steady_clock::now();
}

void Journal::finish(bool ordered) {
  sync();
  if (ordered) rewrite(true, false);
}

void Journal::rewrite(bool ordered, bool without_failed) {
  std::vector<ResultPlace> places;
  const Survey& input = record_.facts().input;
  read_results(output_, input.hash, input.lines, [&](const ResultPlace& place) {
    if (!place.failed || !without_failed) places.push_back(place);
  });
  const auto by_line = [](const ResultPlace& a, const ResultPlace& b) { return a.line < b.line; };
  if (ordered && !without_failed && std::is_sorted(places.begin(), places.end(), by_line)) return;
  if (ordered) std::sort(places.begin(), places.end(), by_line);
  WholeFile anew(output_);
  done_.assign(done_.size(), false);
  bytes_ = 0;
  for (const ResultPlace& place : places) {
    copy_result(descriptor_, place, anew);
    done_[place.line] = true;
    bytes_ += place.bytes;
  }
  anew.commit();
  open();
  retried_ += answered_ - places.size();
  answered_ = places.size();
  failed_ = without_failed ? 0 : failed_;
}

}  // namespace spillway

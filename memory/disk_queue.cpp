// The ladder: which rung this machine, these files and this memory allow, found by trying.
#include "memory/disk_queue.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/check.h"
#include "memory/disk_backend.h"
#include "memory/extent.h"
#include "memory/piece_queue.h"

namespace spillway {
namespace {

constexpr int kProbeTries = 100;  // of a read that is interrupted

void add_reason(std::string& why, const std::string& reason) {
  if (reason.empty() || why.find(reason) != std::string::npos) return;
  if (!why.empty()) why += "; ";
  why += reason;
}

// 0 or an errno.
int probe_descriptor(int descriptor) {
  alignas(kDiskAlign) std::byte page[kDiskAlign];
  ssize_t got = 0;
  do {
    got = ::pread(descriptor, page, kDiskAlign, 0);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? errno : 0;
}

// One descriptor for each file: the direct one where it is there and reads, else the page cache's, with the reason.
std::vector<int> choose_descriptors(const std::vector<const File*>& files, bool direct_wanted, std::string& why,
                                    bool& any_direct) {
  std::vector<int> chosen;
  for (const File* file : files) {
    int direct_error = direct_wanted ? EINVAL : 0;
    if (direct_wanted && file->direct_descriptor() >= 0) {
      direct_error = probe_descriptor(file->direct_descriptor());
      if (direct_error == 0) {
        chosen.push_back(file->direct_descriptor());
        any_direct = true;
        continue;
      }
    }
    const int error = probe_descriptor(file->descriptor());
    if (error != 0) throw Error(ErrorKind::io, fmt::format("cannot read {} at 0: {}", file->path(), strerror(error)));
    if (direct_wanted) {
      add_reason(why,
                 fmt::format("{} through the page cache, O_DIRECT refused: {}", file->path(), strerror(direct_error)));
    }
    chosen.push_back(file->descriptor());
  }
  return chosen;
}

// One small read of every file through the rung itself; the reason when one fails.
std::string probe_backend(DiskBackend& backend, const std::vector<const File*>& files) {
  for (uint32_t i = 0; i < files.size(); ++i) {
    int64_t result = -EAGAIN;
    for (int tries = 0; tries < kProbeTries && (result == -EINTR || result == -EAGAIN); ++tries) {
      const DiskTransfer transfer{0, i, false, 0, kDiskAlign, backend.probe_page()};
      backend.start({&transfer, 1});
      DiskCompletion completion;
      SPILLWAY_CHECK(backend.collect({&completion, 1}) == 1);
      result = completion.result;
    }
    if (result < 0) {
      return fmt::format("reading {} through io_uring failed: {}", files[i]->path(),
                         strerror(static_cast<int>(-result)));
    }
  }
  return {};
}

}  // namespace

std::unique_ptr<DiskQueue> DiskQueue::open(std::vector<const File*> files, std::vector<std::span<std::byte>> memory,
                                           const DiskQueueOptions& options) {
  SPILLWAY_CHECK(!files.empty());
  std::string why;
  bool any_direct = false;
  const std::vector<int> descriptors = choose_descriptors(files, options.best != DiskMethod::buffered, why, any_direct);
  std::vector<std::string> names;
  for (const File* file : files) names.push_back(file->path());

  const auto finish = [&](std::unique_ptr<DiskBackend> backend, DiskMethod method) {
    return std::make_unique<PieceQueue>(std::move(backend), std::move(names), options, method, std::move(why));
  };
  for (const DiskMethod method : {DiskMethod::uring_fixed, DiskMethod::uring}) {
    if (method < options.best || !any_direct) continue;
    if (method == DiskMethod::uring_fixed && memory.empty()) {
      add_reason(why, "no memory was given to register");
      continue;
    }
    if (method == DiskMethod::uring) memory.clear();
    std::string refusal, notes;
    auto backend = make_uring_backend(descriptors, memory, options.depth, refusal, notes);
    if (backend != nullptr) refusal = probe_backend(*backend, files);
    if (refusal.empty()) {
      add_reason(why, notes);
      return finish(std::move(backend), method);
    }
    add_reason(why, refusal);
  }
  return finish(make_threads_backend(descriptors, options.depth),
                any_direct ? DiskMethod::threads : DiskMethod::buffered);
}

}  // namespace spillway

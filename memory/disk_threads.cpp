// Four threads that pread and pwrite: where io_uring is refused (seccomp, kernel.io_uring_disabled), and for files
// whose only way is the page cache.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>

#include "kernels/check.h"
#include "memory/disk_backend.h"
#include "memory/extent.h"

namespace spillway {
namespace {

// Four saturate the drives tried (pread O_DIRECT of 1 MiB: 1.4 GB/s with four, as io_uring).
constexpr int kDiskThreads = 4;

class ThreadsBackend : public DiskBackend {
 public:
  ThreadsBackend(std::span<const int> descriptors, int depth)
      : descriptors_(descriptors.begin(), descriptors.end()), waiting_(depth), ended_(depth) {
    const int threads = std::min(kDiskThreads, depth);
    for (int i = 0; i < threads; ++i) {
      threads_.push_back(start_disk_thread(
          "spillway-disk", [](void* self) { static_cast<ThreadsBackend*>(self)->work(); }, this));
    }
  }

  ~ThreadsBackend() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void start(std::span<const DiskTransfer> transfers) override {
    {
      const std::lock_guard lock(mutex_);
      for (const DiskTransfer& transfer : transfers) {
        SPILLWAY_CHECK(tail_ - head_ < waiting_.size());
        waiting_[tail_++ % waiting_.size()] = transfer;
      }
    }
    if (transfers.size() == 1) {
      work_.notify_one();
    } else {
      work_.notify_all();
    }
  }

  size_t collect(std::span<DiskCompletion> into) override {
    std::unique_lock lock(mutex_);
    ends_.wait(lock, [this] { return ended_count_ > 0; });
    const size_t count = std::min(ended_count_, into.size());
    std::copy_n(ended_.begin(), count, into.begin());
    std::copy(ended_.begin() + count, ended_.begin() + ended_count_, ended_.begin());
    ended_count_ -= count;
    return count;
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return head_ != tail_ || stopping_; });
      if (head_ == tail_) return;
      const DiskTransfer transfer = waiting_[head_++ % waiting_.size()];
      lock.unlock();
      const int64_t result = move(transfer);
      lock.lock();
      SPILLWAY_CHECK(ended_count_ < ended_.size());
      ended_[ended_count_++] = {transfer.slot, result};
      ends_.notify_one();
    }
  }

  int64_t move(const DiskTransfer& transfer) const {
    const int descriptor = descriptors_[transfer.file];
    const auto offset = static_cast<off_t>(transfer.offset);
    const ssize_t moved = transfer.write ? ::pwrite(descriptor, transfer.memory, transfer.bytes, offset)
                                         : ::pread(descriptor, transfer.memory, transfer.bytes, offset);
    return moved < 0 ? -static_cast<int64_t>(errno) : moved;
  }

  const std::vector<int> descriptors_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable ends_;
  std::vector<DiskTransfer> waiting_;  // a ring: [head_, tail_)
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
  std::vector<DiskCompletion> ended_;
  size_t ended_count_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<DiskBackend> make_threads_backend(std::span<const int> descriptors, int depth) {
  return std::make_unique<ThreadsBackend>(descriptors, depth);
}

DiskBackend::DiskBackend() : probe_page_(static_cast<std::byte*>(std::aligned_alloc(kDiskAlign, kDiskAlign))) {
  if (probe_page_ == nullptr) throw Error(ErrorKind::fit, "no memory for the disk queue");
}

std::thread start_disk_thread(const char* name, void (*run)(void*), void* argument) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  try {
    thread = std::thread(run, argument);
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw Error(ErrorKind::io, std::string("cannot start a disk thread: ") + error.what());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

}  // namespace spillway

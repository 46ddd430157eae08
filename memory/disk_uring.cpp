// io_uring, with files and memory registered once so that a transfer costs neither a descriptor lookup nor the pinning
// of pages. No SQPOLL (a whole core for no gain) and no IOPOLL (many drives refuse it).
#include <fmt/format.h>
#include <liburing.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "kernels/check.h"
#include "memory/disk_backend.h"
#include "memory/extent.h"

namespace spillway {
namespace {

// Limits of IORING_REGISTER_BUFFERS (io_uring_register(2)): 1 GiB for each buffer, 16384 buffers.
constexpr uint64_t kMaxBufferBytes = uint64_t{1} << 30;
constexpr size_t kMaxBuffers = 16384;

std::vector<iovec> cut_into_buffers(std::span<const std::span<std::byte>> memory) {
  std::vector<iovec> buffers;
  for (std::span<std::byte> rest : memory) {
    while (!rest.empty()) {
      const size_t bytes = std::min<size_t>(rest.size(), kMaxBufferBytes);
      buffers.push_back({rest.data(), bytes});
      rest = rest.subspan(bytes);
    }
  }
  std::sort(buffers.begin(), buffers.end(), [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
  return buffers;
}

std::string memlock_hint(int error) {
  rlimit limit{};
  if (error != ENOMEM || getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  return fmt::format(" (the memlock limit is {} KiB, ulimit -l raises it)", limit.rlim_cur >> 10);
}

class UringBackend : public DiskBackend {
 public:
  explicit UringBackend(std::span<const int> descriptors) : descriptors_(descriptors.begin(), descriptors.end()) {}
  ~UringBackend() override {
    if (ready_) io_uring_queue_exit(&ring_);
  }

  // Returns the refusal, empty when all is well.
  std::string set_up(std::span<const std::span<std::byte>> memory, int depth, std::string& notes) {
    const int made = io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0);
    if (made < 0) return fmt::format("io_uring refused: {}{}", strerror(-made), memlock_hint(-made));
    ready_ = true;
    if (!memory.empty()) {
      std::vector<std::span<std::byte>> all(memory.begin(), memory.end());
      all.push_back({probe_page(), kDiskAlign});  // the trial read takes the very path of those to come
      buffers_ = cut_into_buffers(all);
    }
    if (buffers_.size() > kMaxBuffers) return fmt::format("more than {} GiB of memory to register", kMaxBuffers);
    if (!buffers_.empty()) {
      const int registered = io_uring_register_buffers(&ring_, buffers_.data(), static_cast<unsigned>(buffers_.size()));
      if (registered < 0) {
        return fmt::format("buffers not registered: {}{}", strerror(-registered), memlock_hint(-registered));
      }
    }
    const int files = io_uring_register_files(&ring_, descriptors_.data(), static_cast<unsigned>(descriptors_.size()));
    files_registered_ = files >= 0;
    if (!files_registered_) notes = fmt::format("files not registered: {}", strerror(-files));
    return {};
  }

  void start(std::span<const DiskTransfer> transfers) override {
    for (const DiskTransfer& transfer : transfers) prepare(transfer);
    submit();
  }

  size_t collect(std::span<DiskCompletion> into) override {
    io_uring_cqe* first = nullptr;
    int waited = 0;
    do {
      waited = io_uring_wait_cqe(&ring_, &first);
    } while (waited == -EINTR || waited == -EAGAIN);
    SPILLWAY_CHECK(waited == 0);
    size_t count = 0;
    unsigned head = 0;
    io_uring_cqe* cqe = nullptr;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      if (count == into.size()) break;
      into[count++] = {static_cast<uint32_t>(cqe->user_data), cqe->res};
    }
    io_uring_cq_advance(&ring_, static_cast<unsigned>(count));
    return count;
  }

 private:
  void prepare(const DiskTransfer& transfer) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    SPILLWAY_CHECK(sqe != nullptr);  // the ring holds `depth`, and every start() submits all
    const int file = files_registered_ ? static_cast<int>(transfer.file) : descriptors_[transfer.file];
    const auto bytes = static_cast<unsigned>(transfer.bytes);
    const int buffer = buffer_of(transfer);
    if (buffer >= 0 && transfer.write) {
      io_uring_prep_write_fixed(sqe, file, transfer.memory, bytes, transfer.offset, buffer);
    } else if (buffer >= 0) {
      io_uring_prep_read_fixed(sqe, file, transfer.memory, bytes, transfer.offset, buffer);
    } else if (transfer.write) {
      io_uring_prep_write(sqe, file, transfer.memory, bytes, transfer.offset);
    } else {
      io_uring_prep_read(sqe, file, transfer.memory, bytes, transfer.offset);
    }
    if (files_registered_) sqe->flags |= IOSQE_FIXED_FILE;
    sqe->user_data = transfer.slot;
  }

  // -1 where the memory is not registered, or the transfer straddles two registered buffers.
  int buffer_of(const DiskTransfer& transfer) const {
    const auto after = std::upper_bound(buffers_.begin(), buffers_.end(), transfer.memory,
                                        [](const std::byte* at, const iovec& buffer) { return at < buffer.iov_base; });
    if (after == buffers_.begin()) return -1;
    const auto buffer = after - 1;
    const auto* end = static_cast<const std::byte*>(buffer->iov_base) + buffer->iov_len;
    return transfer.memory + transfer.bytes <= end ? static_cast<int>(buffer - buffers_.begin()) : -1;
  }

  // The kernel may take fewer than offered, or none for want of memory: it is asked until all are taken.
  void submit() {
    while (io_uring_sq_ready(&ring_) > 0) {
      const int taken = io_uring_submit(&ring_);
      if (taken >= 0) continue;
      SPILLWAY_CHECK(taken == -EINTR || taken == -EAGAIN || taken == -EBUSY || taken == -ENOMEM);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

  std::vector<int> descriptors_;
  std::vector<iovec> buffers_;  // ascending addresses
  io_uring ring_{};
  bool ready_ = false;
  bool files_registered_ = false;
};

}  // namespace

std::unique_ptr<DiskBackend> make_uring_backend(std::span<const int> descriptors,
                                                std::span<const std::span<std::byte>> memory, int depth,
                                                std::string& refusal, std::string& notes) {
  auto backend = std::make_unique<UringBackend>(descriptors);
  refusal = backend->set_up(memory, depth, notes);
  if (!refusal.empty()) return nullptr;
  return backend;
}

}  // namespace spillway

// PieceQueue: what every DiskQueue does whatever the backend: cuts requests into pieces, keeps as many as it may in
// flight in the order of submission, continues short transfers, tries again what was interrupted, and counts batches
// down.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "kernels/trace.h"
#include "memory/disk_backend.h"
#include "memory/disk_queue.h"

namespace spillway {

// A FIFO that keeps its storage: it allocates only when it holds more than it ever did.
template <typename T>
class Ring {
 public:
  explicit Ring(size_t capacity) : items_(capacity) {}
  bool empty() const { return head_ == tail_; }
  T& front() { return items_[head_ % items_.size()]; }
  void pop() { ++head_; }
  void push(const T& item) {
    if (tail_ - head_ == items_.size()) grow();
    items_[tail_++ % items_.size()] = item;
  }

 private:
  void grow() {
    std::vector<T> larger(items_.size() * 2);
    for (uint64_t i = head_; i < tail_; ++i) larger[i % larger.size()] = items_[i % items_.size()];
    items_.swap(larger);
  }
  std::vector<T> items_;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

class PieceQueue : public DiskQueue {
 public:
  // `names`: the files, for messages.
  PieceQueue(std::unique_ptr<DiskBackend> backend, std::vector<std::string> names, const DiskQueueOptions& options,
             DiskMethod method, std::string why);
  ~PieceQueue() override;

  Event read(std::span<const DiskRequest> requests) override { return submit(requests, false); }
  Event write(std::span<const DiskRequest> requests) override { return submit(requests, true); }
  bool done(uint64_t ticket) override;
  void wait(uint64_t ticket) override;
  void check() override;
  void cancel() override;
  DiskMethod method() const override { return method_; }
  std::string why() const override { return why_; }
  DiskStats stats() const override;

 private:
  using Clock = std::chrono::steady_clock;
  // A request not yet wholly handed to the backend.
  struct Waiting {
    DiskRequest request;
    uint64_t ticket = 0;
    uint64_t sent = 0;  // bytes
    bool write = false;
  };
  // A piece in flight. Transfers start at aligned places, so `moved` is rounded down and `reached` is the true mark.
  struct Piece {
    DiskTransfer transfer;  // the whole piece
    uint64_t ticket = 0;
    uint64_t needed = 0;
    uint64_t moved = 0;
    uint64_t reached = 0;
    int refusals = 0;   // EINTR, EAGAIN since the last byte
    int64_t began = 0;  // for the trace
  };
  // Time during which a count was above zero.
  struct Stopwatch {
    uint64_t count = 0;
    Clock::time_point since;
    double seconds = 0;
    void add(uint64_t n);
    void subtract(uint64_t n);
    double now() const;
  };

  Event submit(std::span<const DiskRequest> requests, bool write);
  void validate(const DiskRequest& request, bool write) const;
  uint64_t open_batch(uint64_t pieces);
  void finish(uint64_t ticket, uint64_t pieces);
  void refill();
  void reap();
  bool settle(const DiskCompletion& completion);
  bool again(Piece& piece, bool pause);
  void end(Piece& piece);
  void fail(const Piece& piece, int error);
  bool is_done(uint64_t ticket) const { return ticket < oldest_ || remaining_[ticket % remaining_.size()] == 0; }

  const Trace::Track track_ = Trace::track("disk");
  const std::unique_ptr<DiskBackend> backend_;
  const std::vector<std::string> names_;
  const DiskQueueOptions options_;
  const DiskMethod method_;
  const std::string why_;

  mutable std::mutex mutex_;
  std::condition_variable work_;     // something is in flight, or the end
  std::condition_variable changed_;  // a batch is done, or nothing is in flight
  Ring<Waiting> waiting_;
  std::vector<Piece> pieces_;  // by slot
  std::vector<uint32_t> free_slots_;
  uint64_t bytes_in_flight_ = 0;
  std::vector<DiskTransfer> starting_;  // scratch of refill()
  std::vector<DiskTransfer> again_;     // scratch of the reaper
  std::vector<uint64_t> remaining_;     // pieces left of batch `ticket`, a ring over [oldest_, next_)
  std::atomic<uint64_t> oldest_{1};     // all tickets below are done
  uint64_t next_ = 1;
  Stopwatch in_flight_;
  Stopwatch open_batches_;
  DiskStats stats_;
  std::string error_;
  std::atomic<bool> failed_{false};
  bool cancelled_ = false;
  bool stopping_ = false;
  std::thread reaper_;
};

}  // namespace spillway

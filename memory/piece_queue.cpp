#include "memory/piece_queue.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/check.h"
#include "memory/extent.h"

namespace spillway {
namespace {

constexpr size_t kFirstCapacity = 1024;
constexpr uint64_t kMaxRequestBytes = uint64_t{1} << 30;
constexpr int kMaxDepth = 4096;
// A drive that answers EAGAIN this often in a row, a millisecond apart, is not coming back.
constexpr int kPatience = 1000;

uint64_t pieces_of(uint64_t bytes, uint64_t request_bytes) { return (bytes + request_bytes - 1) / request_bytes; }

// What a request moves: pages that hold no needed byte stay where they are.
uint64_t bytes_to_move(const DiskRequest& request) {
  return request.needed == 0 ? request.bytes : align_up(request.needed, kDiskAlign);
}

}  // namespace

void PieceQueue::Stopwatch::add(uint64_t n) {
  if (count == 0 && n > 0) since = Clock::now();
  count += n;
}

void PieceQueue::Stopwatch::subtract(uint64_t n) {
  count -= n;
  if (count == 0 && n > 0) seconds += std::chrono::duration<double>(Clock::now() - since).count();
}

double PieceQueue::Stopwatch::now() const {
  return count == 0 ? seconds : seconds + std::chrono::duration<double>(Clock::now() - since).count();
}

PieceQueue::PieceQueue(std::unique_ptr<DiskBackend> backend, std::vector<std::string> names,
                       const DiskQueueOptions& options, DiskMethod method, std::string why)
    : backend_(std::move(backend)),
      names_(std::move(names)),
      options_(options),
      method_(method),
      why_(std::move(why)),
      waiting_(kFirstCapacity),
      remaining_(kFirstCapacity) {
  SPILLWAY_CHECK(options_.depth >= 1 && options_.depth <= kMaxDepth);
  SPILLWAY_CHECK(options_.request_bytes >= kDiskAlign && options_.request_bytes <= kMaxRequestBytes &&
                 options_.request_bytes % kDiskAlign == 0);
  pieces_.resize(options_.depth);
  starting_.reserve(options_.depth);
  again_.reserve(options_.depth);
  for (int slot = options_.depth - 1; slot >= 0; --slot) free_slots_.push_back(static_cast<uint32_t>(slot));
  reaper_ = start_disk_thread(
      "spillway-reaper", [](void* self) { static_cast<PieceQueue*>(self)->reap(); }, this);
}

PieceQueue::~PieceQueue() {
  cancel();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  reaper_.join();
}

void PieceQueue::validate(const DiskRequest& request, bool write) const {
  SPILLWAY_CHECK(request.file < names_.size());
  SPILLWAY_CHECK(request.bytes > 0 && request.bytes % kDiskAlign == 0 && request.offset % kDiskAlign == 0);
  SPILLWAY_CHECK(request.offset <= INT64_MAX - request.bytes);
  SPILLWAY_CHECK(request.memory != nullptr && reinterpret_cast<uintptr_t>(request.memory) % kDiskAlign == 0);
  SPILLWAY_CHECK(request.needed <= request.bytes && (!write || request.needed == 0 || request.needed == request.bytes));
}

Event PieceQueue::submit(std::span<const DiskRequest> requests, bool write) {
  uint64_t pieces = 0;
  for (const DiskRequest& request : requests) {
    validate(request, write);
    pieces += pieces_of(bytes_to_move(request), options_.request_bytes);
  }
  if (pieces == 0) return {};
  const std::lock_guard lock(mutex_);
  const uint64_t ticket = open_batch(pieces);
  if (cancelled_) {
    finish(ticket, pieces);
  } else {
    for (const DiskRequest& request : requests) waiting_.push({request, ticket, 0, write});
    refill();
  }
  return {this, ticket};
}

uint64_t PieceQueue::open_batch(uint64_t pieces) {
  const uint64_t oldest = oldest_.load(std::memory_order_relaxed);
  if (next_ - oldest == remaining_.size()) {
    std::vector<uint64_t> larger(remaining_.size() * 2);
    for (uint64_t t = oldest; t < next_; ++t) larger[t % larger.size()] = remaining_[t % remaining_.size()];
    remaining_.swap(larger);
  }
  remaining_[next_ % remaining_.size()] = pieces;
  open_batches_.add(1);
  return next_++;
}

void PieceQueue::finish(uint64_t ticket, uint64_t pieces) {
  uint64_t& left = remaining_[ticket % remaining_.size()];
  SPILLWAY_CHECK(left >= pieces);
  left -= pieces;
  if (left > 0) return;
  open_batches_.subtract(1);
  uint64_t oldest = oldest_.load(std::memory_order_relaxed);
  while (oldest < next_ && remaining_[oldest % remaining_.size()] == 0) ++oldest;
  oldest_.store(oldest, std::memory_order_release);
  changed_.notify_all();
}

// Hands pieces to the backend until as many are in flight as may be. With the lock held.
void PieceQueue::refill() {
  starting_.clear();
  while (!free_slots_.empty() && !waiting_.empty()) {
    Waiting& waiting = waiting_.front();
    const DiskRequest& request = waiting.request;
    const uint64_t total = bytes_to_move(request);
    const uint64_t bytes = std::min(options_.request_bytes, total - waiting.sent);
    if (bytes_in_flight_ > 0 && bytes_in_flight_ + bytes > options_.in_flight_bytes) break;
    bytes_in_flight_ += bytes;
    const uint64_t wanted = request.needed == 0 ? request.bytes : request.needed;
    const uint32_t slot = free_slots_.back();
    free_slots_.pop_back();
    Piece& piece = pieces_[slot];
    piece = {};
    piece.transfer = {
        slot, request.file, waiting.write, request.offset + waiting.sent, bytes, request.memory + waiting.sent};
    piece.ticket = waiting.ticket;
    piece.needed = std::min(bytes, wanted - waiting.sent);
    if (Trace::on()) piece.began = Trace::now();
    starting_.push_back(piece.transfer);
    waiting.sent += bytes;
    if (waiting.sent == total) waiting_.pop();
  }
  if (starting_.empty()) return;
  const bool idle = in_flight_.count == 0;
  in_flight_.add(starting_.size());
  backend_->start(starting_);
  if (idle) work_.notify_one();
}

void PieceQueue::reap() {
  std::vector<DiskCompletion> ended(options_.depth);
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return in_flight_.count > 0 || stopping_; });
    if (in_flight_.count == 0) return;
    lock.unlock();
    const size_t count = backend_->collect(ended);
    lock.lock();
    again_.clear();
    bool pause = false;
    for (size_t i = 0; i < count; ++i) pause |= settle(ended[i]);
    if (pause) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      lock.lock();
    }
    if (!again_.empty()) backend_->start(again_);
    refill();
  }
}

// Looks at how a transfer ended: the piece is over, or its rest goes to again_. True: give the kernel a moment first.
bool PieceQueue::settle(const DiskCompletion& completion) {
  Piece& piece = pieces_[completion.slot];
  const bool write = piece.transfer.write;
  if (completion.result < 0) {
    const int error = static_cast<int>(-completion.result);
    // ECANCELED: the kernel drops what a thread had submitted when that thread ends; the reaper submits it anew.
    if (error == EINTR || error == EAGAIN || error == ECANCELED) return again(piece, error == EAGAIN);
    fail(piece, error);
    end(piece);
    return false;
  }
  const auto result = static_cast<uint64_t>(completion.result);
  SPILLWAY_CHECK(result <= piece.transfer.bytes - piece.moved);
  (write ? stats_.bytes_written : stats_.bytes_read) += result;
  const uint64_t reached = piece.moved + result;
  const bool progress = reached > piece.reached;
  piece.reached = std::max(piece.reached, reached);
  if (piece.reached >= piece.needed) {
    end(piece);
    return false;
  }
  if (!progress) {
    // A read that brings nothing more stands at the end of the file; a write that takes nothing is a broken drive.
    fail(piece, write ? EIO : 0);
    end(piece);
    return false;
  }
  piece.moved = align_down(piece.reached, kDiskAlign);
  piece.refusals = 0;
  return again(piece, false);
}

bool PieceQueue::again(Piece& piece, bool pause) {
  if (cancelled_) {
    end(piece);
    return false;
  }
  if (pause && ++piece.refusals > kPatience) {
    fail(piece, EAGAIN);
    end(piece);
    return false;
  }
  DiskTransfer rest = piece.transfer;
  rest.offset += piece.moved;
  rest.memory += piece.moved;
  rest.bytes -= piece.moved;
  again_.push_back(rest);
  return pause;
}

void PieceQueue::end(Piece& piece) {
  if (Trace::on()) {
    Trace::span(track_, piece.transfer.write ? "write" : "read", piece.began, Trace::now(), piece.transfer.bytes);
  }
  free_slots_.push_back(piece.transfer.slot);
  bytes_in_flight_ -= piece.transfer.bytes;
  in_flight_.subtract(1);
  finish(piece.ticket, 1);
  if (in_flight_.count == 0) changed_.notify_all();
}

// error 0: the file ended early. Only the first failure is kept until check() has told it.
void PieceQueue::fail(const Piece& piece, int error) {
  if (failed_.load(std::memory_order_relaxed)) return;
  const std::string& name = names_[piece.transfer.file];
  const uint64_t at = piece.transfer.offset + piece.reached;
  if (error == 0) {
    error_ = fmt::format("file is shorter than it was: {} at {}", name, at);
  } else if (piece.transfer.write && (error == ENOSPC || error == EDQUOT)) {
    error_ = fmt::format("no space left while writing {} at {}: {}", name, at, strerror(error));
  } else {
    error_ = fmt::format("cannot {} {} at {}: {}", piece.transfer.write ? "write" : "read", name, at, strerror(error));
  }
  failed_.store(true, std::memory_order_release);
}

bool PieceQueue::done(uint64_t ticket) {
  if (ticket < oldest_.load(std::memory_order_acquire)) return true;
  const std::lock_guard lock(mutex_);
  SPILLWAY_CHECK(ticket < next_);
  return is_done(ticket);
}

void PieceQueue::wait(uint64_t ticket) {
  if (ticket < oldest_.load(std::memory_order_acquire)) return;
  std::unique_lock lock(mutex_);
  SPILLWAY_CHECK(ticket < next_);
  changed_.wait(lock, [&] { return is_done(ticket); });
}

void PieceQueue::check() {
  if (!failed_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  if (!failed_.load(std::memory_order_relaxed)) return;
  failed_.store(false, std::memory_order_relaxed);
  throw Error(ErrorKind::io, error_);
}

void PieceQueue::cancel() {
  std::unique_lock lock(mutex_);
  cancelled_ = true;
  for (; !waiting_.empty(); waiting_.pop()) {
    const Waiting& waiting = waiting_.front();
    finish(waiting.ticket, pieces_of(bytes_to_move(waiting.request) - waiting.sent, options_.request_bytes));
  }
  changed_.wait(lock, [this] { return in_flight_.count == 0; });
}

DiskStats PieceQueue::stats() const {
  const std::lock_guard lock(mutex_);
  DiskStats snapshot = stats_;
  snapshot.seconds_busy = in_flight_.now();
  snapshot.seconds_demand = open_batches_.now();
  return snapshot;
}

}  // namespace spillway

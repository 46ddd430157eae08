#include "prefetch/copy_engine.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/trace.h"
#include "memory/pending_events.h"

namespace spillway {

// submit: waits for each operation's turn and hands it to the disk or the link. arrive: takes what the disk has read
// onwards over the link. Both are host threads; the link itself is the device's copy stream.
struct CopyLane::State {
  Device& device;
  DiskQueue* disk;
  Traffic& traffic;
  std::span<std::byte> staging;
  std::span<std::byte> landing;  // what gather() reads into: the staging, where there is one
  StagingShape shape;
  PendingEvents pending;
  std::unique_ptr<Stream> to_device;
  std::unique_ptr<Stream> to_host;
  std::unique_ptr<Stream> straight_to_device;
  std::unique_ptr<Stream> straight_to_host;
  std::vector<Event> piece_free;  // event after which a staging piece may be filled again
  size_t next_piece = 0;
  Trace::Track arrive_track, submit_track;
  CpuStream arrive;
  CpuStream submit;  // last: ends first

  State(const std::string& name, Device& on, DiskQueue* queue, Traffic& count, std::span<std::byte> stage,
        const StagingShape& pieces, double link)
      : device(on),
        disk(queue),
        traffic(count),
        staging(stage),
        landing(stage),
        shape(pieces),
        to_device(on.make_copy_stream(name + " host to device", link)),
        to_host(on.make_copy_stream(name + " device to host", link)),
        piece_free(stage.empty() ? 0 : pieces.pieces),
        arrive_track(Trace::track(name + " arrive")),
        submit_track(Trace::track(name + " submit")),
        arrive(name + " arrive", nullptr),
        submit(name + " submit", nullptr) {
    SPILLWAY_CHECK(stage.empty() || stage.size() >= pieces.bytes());
    if (on.host_addressable()) return;
    straight_to_device = on.make_copy_stream(name + " straight to device");
    straight_to_host = on.make_copy_stream(name + " straight to host");
  }

  bool direct() const { return staging.empty(); }

  // A new event, of whatever is moved; where only some of it comes from the drive, or goes there, of that.
  Event promise(bool with_disk, Link disk_way, Link way, Cause cause) {
    Event end = pending.promise();
    end.arrival = arrival_of(with_disk ? disk_way : way, cause);
    return end;
  }

  static std::vector<DiskRequest> requests_of(const std::vector<DiskMove>& moves) {
    std::vector<DiskRequest> requests;
    requests.reserve(moves.size());
    for (const DiskMove& m : moves) requests.push_back({m.file, m.offset, m.bytes, m.memory, m.needed});
    return requests;
  }

  template <typename Move>
  static uint64_t bytes_of(const std::vector<Move>& moves) {
    uint64_t bytes = 0;
    for (const Move& move : moves) bytes += move.bytes;
    return bytes;
  }

  static void wait_for(Trace::Track track, const char* what, std::span<const Event> events) {
    const TraceRange range(track, what);
    for (const Event& event : events) event.wait();
  }

  // By `stream` alone, where that can be; called by who submits.
  std::optional<Event> go_straight(Stream* stream, const Moves& moves, std::span<const Event> after, Link link,
                                   Cause cause) {
    if (stream == nullptr || !moves.disk.empty()) return std::nullopt;
    if (!std::all_of(after.begin(), after.end(), [&](const Event& event) { return stream->orders(event); })) {
      return std::nullopt;
    }
    for (const Event& event : after) stream->wait_for(event);
    for (const LinkMove& move : moves.link) {
      stream->copy(move.to, move.from, move.bytes);
      traffic.add(link, cause, move.bytes);
    }
    Event end = stream->record();
    end.arrival = arrival_of(link, cause);
    return end;
  }

  // Calls body(move, done, bytes, needed) for one staging piece after another.
  template <typename Body>
  void for_each_piece(const std::vector<DiskMove>& moves, const Body& body) {
    for (const DiskMove& move : moves) {
      const uint64_t must = move.needed == 0 ? move.bytes : move.needed;
      for (uint64_t done = 0; done < must; done += shape.piece_bytes) {
        body(move, done, std::min(shape.piece_bytes, move.bytes - done), std::min(shape.piece_bytes, must - done));
      }
    }
  }

  // The next staging piece, once whoever used it last is done.
  size_t take_piece() {
    const size_t piece = next_piece++ % piece_free.size();
    piece_free[piece].wait();
    return piece;
  }

  // Each piece goes over the link as soon as the disk has filled it.
  void read_staged(const std::vector<DiskMove>& moves, Cause cause) {
    for_each_piece(moves, [&](const DiskMove& move, uint64_t done, uint64_t bytes, uint64_t needed) {
      const size_t piece = take_piece();
      std::byte* from = staging.data() + piece * shape.piece_bytes;
      const DiskRequest request{move.file, move.offset + done, bytes, from, needed};
      const Event read = disk->read({&request, 1});
      const Event copied = pending.promise();
      piece_free[piece] = copied;
      arrive.enqueue([this, read, copied, to = move.memory + done, from, needed, cause] {
        wait_for(arrive_track, "wait for the disk", {&read, 1});
        over_link({{to, from, needed}}, cause);
        pending.fulfil(copied.ticket, to_device->record());
      });
    });
  }

  std::vector<Event> write_staged(const std::vector<DiskMove>& moves, Cause cause) {
    std::vector<Event> written;
    for_each_piece(moves, [&](const DiskMove& move, uint64_t done, uint64_t bytes, uint64_t) {
      const size_t piece = take_piece();
      std::byte* through = staging.data() + piece * shape.piece_bytes;
      to_host->copy(through, move.memory + done, bytes);
      traffic.add(Link::device_to_host, cause, bytes);
      to_host->record().wait();
      const DiskRequest request{move.file, move.offset + done, bytes, through, 0};
      piece_free[piece] = disk->write({&request, 1});
      written.push_back(piece_free[piece]);
    });
    return written;
  }

  void over_link(const std::vector<LinkMove>& moves, Cause cause) {
    const TraceRange range(arrive_track, kCauseNames[static_cast<int>(cause)], bytes_of(moves));
    for (const LinkMove& move : moves) {
      to_device->copy(move.to, move.from, move.bytes);
      traffic.add(Link::host_to_device, cause, move.bytes);
    }
  }

  // Stretches that fill a piece of the landing place are one batch of reads, whose pieces are copied when it is there.
  void gather_from_disk(const PieceMoves& moves, Cause cause) {
    for (size_t next = 0; next < moves.disk.size();) {
      const size_t place = take_piece();
      std::byte* at = landing.data() + place * shape.piece_bytes;
      std::vector<DiskRequest> reads;
      std::vector<LinkMove> copies;
      uint64_t used = 0;
      for (; next < moves.disk.size() && used + moves.disk[next].bytes <= shape.piece_bytes; ++next) {
        const DiskStretch& stretch = moves.disk[next];
        reads.push_back({stretch.file, stretch.offset, stretch.bytes, at + used, 0});
        for (size_t i = stretch.first; i < stretch.first + stretch.pieces; ++i) {
          const StretchPiece& piece = moves.pieces[i];
          copies.push_back({piece.to, at + used + piece.from, piece.bytes});
        }
        used += stretch.bytes;
      }
      SPILLWAY_CHECK(!reads.empty());
      traffic.add(Link::disk_read, cause, used);
      const Event read = disk->read(reads);
      const Event copied = pending.promise();
      piece_free[place] = copied;
      arrive.enqueue([this, read, copied, copies = std::move(copies), cause] {
        wait_for(arrive_track, "wait for the disk", {&read, 1});
        copy_pieces(*to_device, copies, cause);
        pending.fulfil(copied.ticket, to_device->record());
      });
    }
  }

  // Where there is no link none is counted.
  void copy_pieces(Stream& stream, std::span<const LinkMove> moves, Cause cause) {
    uint64_t bytes = 0;
    for (const LinkMove& move : moves) bytes += move.bytes;
    stream.gather(moves);
    if (!direct()) traffic.add(Link::host_to_device, cause, bytes);
  }

  void gather(PieceMoves moves, Cause cause, uint64_t ticket) {
    if (!moves.link.empty()) {
      arrive.enqueue([this, link = std::move(moves.link), cause] { copy_pieces(*to_device, link, cause); });
    }
    gather_from_disk(moves, cause);
    arrive.enqueue([this, ticket] { pending.fulfil(ticket, to_device->record()); });
  }

  void bring(const Moves& moves, Cause cause, uint64_t ticket) {
    for (const DiskMove& move : moves.disk) traffic.add(Link::disk_read, cause, move.bytes);
    if (direct() && moves.link.empty()) return pending.fulfil(ticket, disk->read(requests_of(moves.disk)));
    if (!moves.link.empty()) arrive.enqueue([this, link = moves.link, cause] { over_link(link, cause); });
    Event read;
    if (direct()) {
      read = disk->read(requests_of(moves.disk));
    } else {
      read_staged(moves.disk, cause);
    }
    arrive.enqueue([this, read, ticket] {
      wait_for(arrive_track, "wait for the disk", {&read, 1});
      pending.fulfil(ticket, to_device->record());
    });
  }

  void take_out(const Moves& moves, Cause cause, uint64_t ticket) {
    for (const DiskMove& move : moves.disk) traffic.add(Link::disk_write, cause, move.bytes);
    for (const LinkMove& move : moves.link) {
      to_host->copy(move.to, move.from, move.bytes);
      traffic.add(Link::device_to_host, cause, move.bytes);
    }
    std::vector<Event> ends;
    if (!moves.link.empty()) ends.push_back(to_host->record());
    if (direct() && !moves.disk.empty()) {
      ends.push_back(disk->write(requests_of(moves.disk)));
    } else {
      for (const Event& event : write_staged(moves.disk, cause)) ends.push_back(event);
    }
    if (ends.size() == 1) return pending.fulfil(ticket, ends.front());
    arrive.enqueue([this, ends = std::move(ends), ticket] {
      for (const Event& event : ends) event.wait();
      pending.fulfil(ticket, {});
    });
  }
};

CopyLane::CopyLane(std::string name, Device& device, DiskQueue* disk, Traffic& traffic, std::span<std::byte> staging,
                   const StagingShape& shape, double link_bytes_per_second)
    : state_(std::make_unique<State>(name, device, disk, traffic, staging, shape, link_bytes_per_second)) {}

CopyLane::~CopyLane() = default;

Event CopyLane::to_device(Moves moves, std::vector<Event> after, Cause cause) {
  State& s = *state_;
  SPILLWAY_CHECK(s.disk != nullptr || moves.disk.empty());
  if (const auto end = s.go_straight(s.straight_to_device.get(), moves, after, Link::host_to_device, cause)) {
    return *end;
  }
  const Event end = s.promise(!moves.disk.empty(), Link::disk_read, Link::host_to_device, cause);
  s.submit.enqueue([&s, moves = std::move(moves), after = std::move(after), cause, ticket = end.ticket] {
    const TraceRange range(s.submit_track, kCauseNames[static_cast<int>(cause)],
                           State::bytes_of(moves.disk) + State::bytes_of(moves.link));
    State::wait_for(s.submit_track, "wait for a place", after);
    s.bring(moves, cause, ticket);
  });
  return end;
}

Event CopyLane::from_device(Moves moves, std::vector<Event> after, Cause cause) {
  State& s = *state_;
  SPILLWAY_CHECK(s.disk != nullptr || moves.disk.empty());
  if (const auto end = s.go_straight(s.straight_to_host.get(), moves, after, Link::device_to_host, cause)) return *end;
  const Event end = s.promise(!moves.disk.empty(), Link::disk_write, Link::device_to_host, cause);
  s.submit.enqueue([&s, moves = std::move(moves), after = std::move(after), cause, ticket = end.ticket] {
    const TraceRange range(s.submit_track, kCauseNames[static_cast<int>(cause)],
                           State::bytes_of(moves.disk) + State::bytes_of(moves.link));
    State::wait_for(s.submit_track, "wait for the page", after);
    s.take_out(moves, cause, ticket);
  });
  return end;
}

Event CopyLane::gather(PieceMoves moves, std::vector<Event> after, Cause cause) {
  State& s = *state_;
  SPILLWAY_CHECK(moves.disk.empty() || (s.disk != nullptr && !s.landing.empty()));
  Stream* straight = s.straight_to_device.get();
  if (straight != nullptr && moves.disk.empty() &&
      std::all_of(after.begin(), after.end(), [&](const Event& event) { return straight->orders(event); })) {
    for (const Event& event : after) straight->wait_for(event);
    s.copy_pieces(*straight, moves.link, cause);
    Event end = straight->record();
    end.arrival = arrival_of(Link::host_to_device, cause);
    return end;
  }
  const Event end = s.promise(!moves.disk.empty(), Link::disk_read, Link::host_to_device, cause);
  s.submit.enqueue([&s, moves = std::move(moves), after = std::move(after), cause, ticket = end.ticket]() mutable {
    const TraceRange range(s.submit_track, kCauseNames[static_cast<int>(cause)], State::bytes_of(moves.link));
    State::wait_for(s.submit_track, "wait for the pages", after);
    s.gather(std::move(moves), cause, ticket);
  });
  return end;
}

void CopyLane::set_landing(std::span<std::byte> landing, const StagingShape& shape) {
  State& s = *state_;
  SPILLWAY_CHECK(s.direct() && landing.size() >= shape.bytes());
  s.landing = landing;
  s.shape = shape;
  s.piece_free.assign(static_cast<size_t>(s.shape.pieces), Event{});
}

void CopyLane::drain() {
  State& s = *state_;
  s.submit.record().wait();  // it may hand more to all others
  s.arrive.record().wait();
  for (const auto* stream : {&s.to_device, &s.to_host, &s.straight_to_device, &s.straight_to_host}) {
    if (*stream) (*stream)->record().wait();
  }
}

}  // namespace spillway

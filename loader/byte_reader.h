// ByteReader: a bounded, buffered walk over the header of a file. Nothing is believed before it is compared with the
// file.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "memory/file.h"

namespace spillway {

// Reads little-endian values from the front of `file` and holds one chunk of it at a time. Every failure is an
// Error(model) "path: at byte N: what is wrong".
class ByteReader {
 public:
  // `limit`: the most bytes a header may have.
  ByteReader(const File& file, uint64_t limit);

  template <typename T>
  T value(const char* what) {
    static_assert(std::endian::native == std::endian::little);
    need(sizeof(T), what);
    T result;
    std::memcpy(&result, take(sizeof(T)), sizeof(T));
    return result;
  }

  // A 64-bit length and its bytes; Error when longer than `longest`.
  std::string text(uint64_t longest, const char* what);

  // Appends `count` values of type T to `into`, whose memory grows only after the count was checked against the file.
  template <typename T, typename Store>
  void values(uint64_t count, std::vector<Store>& into, const char* what) {
    need_items(count, sizeof(T), what);
    into.reserve(count);
    while (count > 0) {
      const uint64_t batch = std::min<uint64_t>(count, kChunk / sizeof(T));
      const std::byte* at = take(batch * sizeof(T));
      for (uint64_t i = 0; i < batch; ++i) {
        T item;
        std::memcpy(&item, at + i * sizeof(T), sizeof(T));
        into.push_back(static_cast<Store>(item));
      }
      count -= batch;
    }
  }

  uint64_t offset() const { return base_ + begin_; }
  const std::string& path() const { return file_.path(); }
  // Error unless `bytes` (or `count` items of at least `bytes_each`) more lie inside both the file and the limit.
  void need(uint64_t bytes, const char* what) const;
  void need_items(uint64_t count, uint64_t bytes_each, const char* what) const;
  [[noreturn]] void fail(const std::string& message) const { fail_at(offset(), message); }
  [[noreturn]] void fail_at(uint64_t offset, const std::string& message) const;

 private:
  static constexpr uint64_t kChunk = 256 << 10;

  // The next `bytes` (at most kChunk) bytes, valid until the next call; need() has been asked.
  const std::byte* take(uint64_t bytes);

  const File& file_;
  uint64_t limit_;
  std::vector<std::byte> buffer_;
  uint64_t base_ = 0;   // file offset of buffer_[0]
  uint64_t begin_ = 0;  // first unread byte of buffer_
  uint64_t end_ = 0;    // one past the last byte held
};

}  // namespace spillway

#include "loader/byte_reader.h"

#include <fmt/format.h>

#include "kernels/check.h"

namespace spillway {

ByteReader::ByteReader(const File& file, uint64_t limit)
    : file_(file), limit_(limit), buffer_(std::min(file.bytes(), kChunk)) {}

void ByteReader::fail_at(uint64_t offset, const std::string& message) const {
  throw Error(ErrorKind::model, fmt::format("{}: at byte {}: {}", path(), offset, message));
}

void ByteReader::need(uint64_t bytes, const char* what) const {
  const uint64_t at = offset();
  if (bytes > file_.bytes() - at) {
    fail(fmt::format("{} needs {} bytes, but the file ends after {} bytes", what, bytes, file_.bytes()));
  }
  if (at > limit_ || bytes > limit_ - at) {
    fail(fmt::format("{} needs {} bytes, and no header larger than {} bytes is read", what, bytes, limit_));
  }
}

void ByteReader::need_items(uint64_t count, uint64_t bytes_each, const char* what) const {
  if (count > UINT64_MAX / bytes_each) fail(fmt::format("{} claims {} items, more than any file holds", what, count));
  need(count * bytes_each, what);
}

const std::byte* ByteReader::take(uint64_t bytes) {
  if (end_ - begin_ < bytes) {
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    base_ += begin_;
    end_ -= begin_;
    begin_ = 0;
    const uint64_t more = std::min(buffer_.size() - end_, file_.bytes() - (base_ + end_));
    file_.read(base_ + end_, {buffer_.data() + end_, more});
    end_ += more;
  }
  SPILLWAY_CHECK(end_ - begin_ >= bytes);
  const std::byte* at = buffer_.data() + begin_;
  begin_ += bytes;
  return at;
}

std::string ByteReader::text(uint64_t longest, const char* what) {
  const uint64_t at = offset();
  uint64_t bytes = value<uint64_t>(what);
  if (bytes > longest) {
    fail_at(at, fmt::format("{} claims {} bytes; the longest read is {}", what, bytes, longest));
  }
  need(bytes, what);
  std::string result;
  result.reserve(bytes);
  while (bytes > 0) {
    const uint64_t batch = std::min(bytes, kChunk);
    result.append(reinterpret_cast<const char*>(take(batch)), batch);
    bytes -= batch;
  }
  return result;
}

}  // namespace spillway

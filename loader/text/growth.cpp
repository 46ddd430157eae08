#include "loader/text/growth.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

// Compatibility forms make eleven times as much of a ligature, marks for spaces three times.
Growth::Growth(size_t text_bytes)
    : text_bytes_(text_bytes),
      made_left_((size_t{4} << 20) + 128 * text_bytes),
      kept_left_((size_t{1} << 20) + 16 * text_bytes) {}

size_t Growth::room() const { return std::min(made_left_, kept_left_); }

void Growth::made(size_t bytes, const std::string& where) {
  if (bytes > room()) refuse(where);
  made_left_ -= bytes;
}

void Growth::refuse(const std::string& where) const {
  throw Error(ErrorKind::model,
              fmt::format("{}: makes more of a text of {} bytes than any model's does: it would take all memory", where,
                          text_bytes_));
}

}  // namespace spillway

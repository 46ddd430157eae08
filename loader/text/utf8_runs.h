// Texts that are UTF-8 only in part: patterns and normalizers see the well-formed runs, the bytes between them go as
// they are.
#pragma once

#include <string_view>

#include "loader/text/utf8.h"

namespace spillway {

// Calls take(run, well_formed) for the runs of `text` in order, each as long as can be.
template <typename Take>
void for_each_utf8_run(std::string_view text, const Take& take) {
  for (size_t begin = 0; begin < text.size();) {
    const bool whole = first_utf8(text.substr(begin)).step == Utf8Step::whole;
    size_t end = begin;
    while (end < text.size()) {
      const Utf8Char next = first_utf8(text.substr(end));
      if ((next.step == Utf8Step::whole) != whole) break;
      end += next.bytes;
    }
    take(text.substr(begin, end - begin), whole);
    begin = end;
  }
}

}  // namespace spillway

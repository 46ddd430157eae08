// RequestReader: the lines of a batch's input that are still to be answered, in order, each understood or refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "apps/batch/journal.h"
#include "apps/batch/line_file.h"
#include "apps/batch/request_line.h"

namespace spillway {

// Which of an input's requests one process answers: every count-th, from the index-th on (from 1).
struct Shard {
  int index = 1, count = 1;
  bool has(uint64_t request) const {
    return request % static_cast<uint64_t>(count) == static_cast<uint64_t>(index) - 1;
  }
  // Of so many requests.
  uint64_t share(uint64_t requests) const {
    const auto n = static_cast<uint64_t>(count), i = static_cast<uint64_t>(index);
    return requests / n + (requests % n >= i ? 1 : 0);
  }
};

// Names that were seen, by their 64 bits of XXH3: 12 to 24 bytes each. Two of a million names share them once in 37
// million such inputs; the second is then refused, aloud.
class NameSet {
 public:
  // False: it was there.
  bool insert(std::string_view name);

 private:
  void grow();
  std::vector<uint64_t> slots_;  // open addressing, linear probing; 0: free
  size_t count_ = 0;
};

class RequestReader {
 public:
  struct Item {
    uint64_t line = 0;
    RequestLine request;
    std::optional<LineFault> fault;  // then there is no request
  };

  // The parts outlive it. From the beginning of `input`, which was surveyed.
  RequestReader(LineFile& input, const Journal& journal, Shard shard)
      : input_(input), journal_(journal), shard_(shard) {}

  // False at the end. Throws Error(usage) where the input has changed. A line whose custom_id an earlier one had is
  // refused, whichever shard that is in.
  bool next(Item& item);

 private:
  LineFile& input_;
  const Journal& journal_;
  const Shard shard_;
  NameSet names_;
  Line line_;
};

}  // namespace spillway

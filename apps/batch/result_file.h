// The output file of a batch, as it lies there: read through, and written anew in another order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/batch/result_line.h"
#include "kernels/whole_file.h"

namespace spillway {

// Where a result lies.
struct ResultPlace {
  uint64_t line = 0;    // of the input
  uint64_t offset = 0;  // in its file
  uint32_t bytes = 0;   // with its end
  bool failed = false;
};

// Reads the results of the input of this fingerprint, which has so many lines, one after another. Returns the bytes up
// to the end of the last whole one: what follows was torn by the death of the writer or of the machine. Blank lines are
// passed over. Throws Error(usage) where a whole line is none of them, one line of the input has two, or results follow
// what was torn.
uint64_t read_results(const std::string& path, uint64_t input_hash, uint64_t lines,
                      const std::function<void(const ResultPlace&)>& each);

// Copies the result at `place` of the file that `from` has open to the end of `to`. Throws Error(io).
void copy_result(int from, const ResultPlace& place, WholeFile& to);

}  // namespace spillway

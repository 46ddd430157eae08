// The output file of a batch, as it lies there: read through, and written anew in another order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "apps/batch/result_line.h"

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

// Writes `to` of results in other files: whole, or not at all (a temporary name, fsync, rename), with the
// permissions of what was there. Throws Error(io).
class ResultWriter {
 public:
  explicit ResultWriter(const std::string& to);
  ~ResultWriter();
  ResultWriter(const ResultWriter&) = delete;

  // Copies the bytes at `place` of the file that `from` has open.
  void copy(int from, const ResultPlace& place);
  void finish();

  // Of a name that is the batch's own, for it is taken away unasked.
  static std::string temporary_name(const std::string& to) { return to + ".journal.tmp"; }

 private:
  void flush();

  std::string to_;
  int descriptor_ = -1;
  std::string buffer_;
};

// fsync of the folder that a file is in, so that its name is there after a crash.
void sync_folder_of(const std::string& path);

}  // namespace spillway

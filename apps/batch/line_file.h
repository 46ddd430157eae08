// LineFile: the input of a batch, line by line, however many and however long they are.
#pragma once

#include <sys/stat.h>
#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace spillway {

struct Line {
  uint64_t number = 0;    // from 1, blank ones counted
  uint64_t request = 0;   // from 0, blank ones not
  std::string text;       // without its end
  bool too_long = false;  // more than the most; `text` is empty
};

// What one reading to the end has found.
struct Survey {
  uint64_t bytes = 0, lines = 0, requests = 0;
  uint64_t hash = 0;  // XXH3 of all bytes
  bool operator==(const Survey&) const = default;
};

class LineFile {
 public:
  // A regular file, for it is read twice. Throws Error(usage) naming flag and file.
  LineFile(const std::string& flag, const std::string& path, size_t most_line_bytes);
  ~LineFile();
  LineFile(const LineFile&) = delete;

  // Of lines from now on; at most the number that it began with.
  void set_most_line_bytes(size_t bytes) { most_ = std::min(most_, bytes); }
  // The next line that is not blank; false at the end, which is where the survey ended, should the file have grown
  // since. Throws Error(io), and Error(usage) as check_unchanged().
  bool next(Line& line);
  // Of what has been read since the beginning.
  Survey so_far() const;
  // Reads all of it without keeping a line, and begins anew.
  Survey survey();
  void rewind();
  // Throws Error(usage) where size or time of change is no longer what it was when the file was opened: whatever was
  // surveyed and whatever is read would be of two files.
  void check_unchanged() const;
  [[noreturn]] void refuse_change() const;

 private:
  bool fill();

  struct FreeState {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };

  std::string flag_, path_;
  size_t most_;
  int descriptor_ = -1;
  struct stat opened_ {};
  uint64_t end_of_file_ = UINT64_MAX;  // where a survey has ended
  std::vector<char> buffer_;
  size_t at_ = 0, end_ = 0;
  Survey read_;
  std::unique_ptr<XXH3_state_t, FreeState> hash_;
};

}  // namespace spillway

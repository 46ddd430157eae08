// Journal: the output of a batch, to which answers are appended as they come. It is the only record of what is done: a
// job that was killed goes on from it, and nothing is lost or answered twice.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "apps/batch/job_record.h"
#include "kernels/check.h"

namespace spillway {

class Journal {
 public:
  // Opens or makes `output`, of which this process holds the record, and reads what is done: a torn last line is cut
  // off. retry_failed: what failed is taken out, and so is not done. Throws Error(usage) as read_results() does,
  // Error(io).
  Journal(const std::string& output, JobRecord record, bool retry_failed);
  ~Journal();
  Journal(const Journal&) = delete;

  // Whether `line` of the input, from 1 to lines(), has a result.
  bool done(uint64_t line) const {
    SPILLWAY_CHECK(line < done_.size());
    return done_[line];
  }
  uint64_t lines() const { return done_.size() - 1; }
  JobRecord& record() { return record_; }
  // Lines that have a result, and of those the errors.
  uint64_t answered() const { return answered_; }
  uint64_t failed() const { return failed_; }
  // What opening it cut off, and how many errors it took out.
  uint64_t cut_bytes() const { return cut_bytes_; }
  uint64_t retried() const { return retried_; }

  // A result, without its line end. Where the drive is full, what came before stays whole: Error(io) says how to go on.
  void append(uint64_t line, std::string_view text, bool failed);
  // To the drive, where the last time is a few seconds ago. Called often.
  void tick();
  // To the drive; and into the order of the input, by writing the file anew (which takes as much space again, for a
  // moment, and 32 bytes of memory a line).
  void finish(bool ordered);

 private:
  void sync();
  void rewrite(bool ordered, bool without_failed);
  void open();

  std::string output_;
  JobRecord record_;
  int descriptor_ = -1;
  std::vector<bool> done_;  // of each line of the input
  uint64_t bytes_ = 0, answered_ = 0, failed_ = 0, cut_bytes_ = 0, retried_ = 0;
  bool unsynced_ = false;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace spillway

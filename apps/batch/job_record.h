// JobRecord: OUT.journal, which lies beside the output of a batch, says what it was begun with, and is its lock.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "apps/batch/line_file.h"

namespace spillway {

// All that the answers of a job follow from. Two runs with equal facts continue each other.
struct JobFacts {
  Survey input;
  int shard = 1, shards = 1;
  std::string model;                                       // fingerprint
  std::vector<std::pair<std::string, std::string>> flags;  // name and value of each that changes answers
  // The same of what no flag says, and the first run that started an engine has found (Running::found()).
  std::vector<std::pair<std::string, std::string>> found;
};

class JobRecord {
 public:
  // Opens the record of `output`, or makes one with `facts`; held by this process until it is destroyed. Throws
  // Error(usage): another run holds it, it was begun with other facts and has answers (the first that differs is
  // named), there is an output without one, or its name is another file's; Error(io).
  static JobRecord open(const std::string& output, const JobFacts& facts, const std::string& input_path);
  // Of an output that is there, to read. Throws as open() does, and where there is none.
  static JobRecord open_existing(const std::string& output);
  JobRecord(JobRecord&& other) noexcept;
  JobRecord(const JobRecord&) = delete;
  ~JobRecord();

  const JobFacts& facts() const { return facts_; }
  // Keeps JobFacts::found, the first time; later throws Error(usage) where it is another, naming the first difference.
  void settle(const std::vector<std::pair<std::string, std::string>>& found);
  static std::string name(const std::string& output) { return output + ".journal"; }

 private:
  JobRecord(const std::string& output, bool make);
  std::string read() const;
  void write();

  std::string output_;
  int descriptor_ = -1;
  JobFacts facts_;
};

}  // namespace spillway

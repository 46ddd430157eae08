#include "apps/batch/merge.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "apps/batch/file_names.h"
#include "apps/batch/job_record.h"
#include "apps/batch/request_reader.h"
#include "apps/batch/result_file.h"
#include "kernels/check.h"
#include "kernels/whole_file.h"
#include "memory/file.h"

namespace spillway {
namespace {

constexpr size_t kMostNamed = 16;  // in a message

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorKind::usage, "merge: " + what); }

struct Part {
  std::string path;
  JobRecord record;  // held, so that nobody writes it meanwhile
  File file;
};

struct Place {
  ResultPlace place;
  uint32_t part;
};

Part open_part(const std::string& path) {
  JobRecord record = JobRecord::open_existing(path);
  return {.path = path, .record = std::move(record), .file = File::open_read(path)};
}

// Of the same job as the first, and another shard of it than all before.
void check_part(const std::vector<Part>& parts, const Part& part) {
  const JobFacts& facts = part.record.facts();
  if (parts.empty()) return;
  const JobFacts& first = parts.front().record.facts();
  const bool same = facts.input == first.input && facts.model == first.model && facts.flags == first.flags &&
                    facts.shards == first.shards &&
                    (facts.found == first.found || facts.found.empty() || first.found.empty());
  if (!same)
    refuse(fmt::format("{} and {} are of two jobs: input, model, flags or number of shards differ", parts.front().path,
                       part.path));
  for (const Part& other : parts) {
    if (other.record.facts().shard != facts.shard) continue;
    refuse(fmt::format("{} and {} are both shard {}/{}", other.path, part.path, facts.shard, facts.shards));
  }
}

void check_whole(const std::vector<Part>& parts) {
  const int shards = parts.front().record.facts().shards;
  std::set<int> there;
  for (const Part& part : parts) there.insert(part.record.facts().shard);
  const size_t missing = static_cast<size_t>(shards) - there.size();
  if (missing == 0) return;
  std::vector<std::string> named;
  for (int i = 1; i <= shards && named.size() < kMostNamed; ++i) {
    if (!there.contains(i)) named.push_back(fmt::format("{}/{}", i, shards));
  }
  const std::string others = missing > named.size() ? fmt::format(" and {} others", missing - named.size()) : "";
  refuse(fmt::format("there is no output of shard {}{}", fmt::join(named, ", "), others));
}

MergeReport read_part(const Part& part, uint32_t number, std::vector<Place>& places) {
  const JobFacts& facts = part.record.facts();
  MergeReport found;
  const uint64_t whole = read_results(part.path, facts.input.hash, facts.input.lines, [&](const ResultPlace& place) {
    places.push_back({.place = place, .part = number});
    ++found.answered;
    found.errors += place.failed ? 1 : 0;
  });
  const uint64_t wanted = Shard{.index = facts.shard, .count = facts.shards}.share(facts.input.requests);
  if (whole != part.file.bytes() || found.answered != wanted) {
    refuse(fmt::format("{}: it has {} of its {} results: run shard {}/{} to its end", part.path, found.answered, wanted,
                       facts.shard, facts.shards));
  }
  return found;
}

}  // namespace

MergeReport merge_batches(const std::string& to, const std::vector<std::string>& paths) {
  const std::string output = followed(to);
  std::vector<Part> parts;
  for (const std::string& given : paths) {
    const std::string path = followed(given);
    refuse_written({"PARTS", path}, {"OUTPUT", output});
    std::error_code ignored;
    for (const Part& other : parts) {
      if (std::filesystem::equivalent(other.path, path, ignored)) refuse(path + ": it is given twice");
    }
    Part part = open_part(path);
    check_part(parts, part);
    parts.push_back(std::move(part));
  }
  if (parts.empty()) refuse("no output of a shard is given");
  check_whole(parts);
  if (std::filesystem::exists(output)) refuse(output + ": it is there already");
  MergeReport report;
  std::vector<Place> places;
  for (uint32_t i = 0; i < parts.size(); ++i) {
    const MergeReport found = read_part(parts[i], i, places);
    report.answered += found.answered;
    report.errors += found.errors;
  }
  std::sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.place.line < b.place.line; });
  for (size_t i = 1; i < places.size(); ++i) {
    if (places[i].place.line == places[i - 1].place.line) {
      refuse(fmt::format("line {} of the input has two results", places[i].place.line));
    }
  }
  JobFacts facts = parts.front().record.facts();
  facts.shard = facts.shards = 1;
  for (const Part& part : parts) {  // one of nothing but errors has found nothing
    if (facts.found.empty()) facts.found = part.record.facts().found;
  }
  const JobRecord record = JobRecord::open(output, facts, "");
  WholeFile merged(output);
  for (const Place& place : places) copy_result(parts[place.part].file.descriptor(), place.place, merged);
  merged.commit();
  return report;
}

}  // namespace spillway

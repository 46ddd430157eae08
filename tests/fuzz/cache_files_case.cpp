#include "tests/fuzz/cache_files_case.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/batch/job_record.h"
#include "apps/batch/journal.h"
#include "apps/batch/merge.h"
#include "kernels/check.h"
#include "runtime/machine_cache.h"
#include "tests/fuzz/folder.h"
#include "tests/fuzz/parts.h"

namespace spillway {
namespace {

using nlohmann::json;

constexpr const char* kKey = "k";  // under which the seeds keep their profiles
constexpr const char* kOutput = "out.jsonl";

template <typename Step>
bool allowed(const Step& step) {
  try {
    step();
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::usage) throw;
    return false;
  }
}

template <typename Profile>
void put_again(MachineCache& cache, const std::optional<Profile>& found) {
  if (found) cache.put(kKey, *found);
}

template <typename Profile>
bool equal(const std::optional<Profile>& a, const std::optional<Profile>& b) {
  return a.has_value() == b.has_value() && (!a || to_json(*a) == to_json(*b));
}

bool try_machine(std::span<const std::byte> bytes) {
  const Folder folder;
  const std::string path = folder.put("machine.json", bytes);
  MachineCache cache(path);
  const auto compute = cache.compute(kKey);
  const auto disk = cache.disk(kKey);
  const auto layers = cache.layers(kKey);
  cache.save();
  const MachineCache again(path);
  SPILLWAY_CHECK(equal(again.compute(kKey), compute) && equal(again.disk(kKey), disk));
  SPILLWAY_CHECK(equal(again.layers(kKey), layers));
  put_again(cache, compute);
  put_again(cache, disk);
  put_again(cache, layers);
  cache.save();
  const MachineCache last(path);
  SPILLWAY_CHECK(last.compute(kKey).has_value() == compute.has_value());
  SPILLWAY_CHECK(last.disk(kKey).has_value() == disk.has_value());
  SPILLWAY_CHECK(last.layers(kKey).has_value() == layers.has_value());
  return compute || disk || layers;
}

bool try_record(std::span<const std::byte> bytes) {
  const Folder folder;
  folder.put(JobRecord::name(kOutput), bytes);
  const std::string output = folder.path(kOutput);
  JobFacts facts;
  const bool understood = allowed([&] {
    JobRecord record = JobRecord::open_existing(output);
    facts = record.facts();
    allowed([&] { record.settle({{"device", "cpu"}}); });
  });
  if (!understood) return false;
  const JobRecord again = JobRecord::open_existing(output);
  SPILLWAY_CHECK(again.facts().input == facts.input && again.facts().flags == facts.flags);
  SPILLWAY_CHECK(again.facts().shard == facts.shard && again.facts().shards == facts.shards);
  SPILLWAY_CHECK(again.facts().model == facts.model && !again.facts().found.empty());
  return true;
}

void use_output(const std::string& output) {
  uint64_t answered = 0, failed = 0;
  {
    Journal journal(output, JobRecord::open_existing(output), false);
    answered = journal.answered();
    failed = journal.failed();
    SPILLWAY_CHECK(failed <= answered && answered <= journal.lines());
    journal.finish(true);
  }
  Journal again(output, JobRecord::open_existing(output), true);
  SPILLWAY_CHECK(again.cut_bytes() == 0 && again.failed() == 0);
  SPILLWAY_CHECK(again.retried() == failed && again.answered() + failed == answered);
}

bool try_results(std::span<const std::byte> bytes) {
  const auto parts = parts_of(bytes, 2);
  const Folder folder;
  folder.put(JobRecord::name(kOutput), parts[0]);
  const std::string output = folder.put(kOutput, parts[1]);
  allowed([&] { merge_batches(folder.path("merged.jsonl"), {output}); });
  return allowed([&] { use_output(output); });
}

}  // namespace

bool try_cache_file(std::span<const std::byte> bytes) {
  if (bytes.empty()) return false;
  const auto rest = bytes.subspan(1);
  switch (static_cast<char>(bytes[0])) {
    case 'm':
      return try_machine(rest);
    case 'j':
      return try_record(rest);
    case 'r':
      return try_results(rest);
    default:
      return false;
  }
}

}  // namespace spillway

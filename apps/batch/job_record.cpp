#include "apps/batch/job_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/check.h"
#include "kernels/whole_file.h"
#include "memory/format_bytes.h"

namespace spillway {
namespace {

using nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr size_t kMostBytes = 64 << 10;
constexpr uint64_t kMostLines = 1 << 30;  // of an input; a bit of memory each

[[noreturn]] void fail(const std::string& path, int error) {
  throw Error(ErrorKind::io, fmt::format("{}: {}", path, std::strerror(error)));
}

std::string text_of(const JobFacts& facts) {
  ordered_json flags = ordered_json::object();
  for (const auto& [name, value] : facts.flags) flags[name] = value;
  ordered_json found = ordered_json::object();
  for (const auto& [name, value] : facts.found) found[name] = value;
  const Survey& input = facts.input;
  const ordered_json json{{"spillway_batch", kVersion},
                          {"input",
                           {{"xxh3", fmt::format("{:016x}", input.hash)},
                            {"bytes", input.bytes},
                            {"lines", input.lines},
                            {"requests", input.requests}}},
                          {"shard", facts.shard},
                          {"shards", facts.shards},
                          {"model", facts.model},
                          {"flags", flags},
                          {"found", found}};
  return json.dump(1) + "\n";
}

// Anything but a whole number is more than any record has.
uint64_t whole(const ordered_json& value) { return value.is_number_unsigned() ? value.get<uint64_t>() : UINT64_MAX; }

// None: not whole, or none of ours.
std::optional<JobFacts> facts_of(const std::string& text) try {
  const ordered_json json = ordered_json::parse(text);
  if (json.at("spillway_batch") != kVersion) return std::nullopt;
  const uint64_t shard = whole(json.at("shard")), shards = whole(json.at("shards"));
  if (shards > INT32_MAX || shard < 1 || shard > shards) return std::nullopt;
  JobFacts facts{.shard = static_cast<int>(shard), .shards = static_cast<int>(shards), .model = json.at("model")};
  const ordered_json& input = json.at("input");
  const std::string hash = input.at("xxh3");
  const auto [end, problem] = std::from_chars(hash.data(), hash.data() + hash.size(), facts.input.hash, 16);
  if (problem != std::errc{} || *end != '\0') return std::nullopt;
  facts.input.bytes = whole(input.at("bytes"));
  facts.input.lines = whole(input.at("lines"));
  facts.input.requests = whole(input.at("requests"));
  for (const auto& [name, value] : json.at("flags").items()) facts.flags.emplace_back(name, value.get<std::string>());
  for (const auto& [name, value] : json.at("found").items()) facts.found.emplace_back(name, value.get<std::string>());
  const bool possible = facts.input.bytes <= INT64_MAX && facts.input.lines <= kMostLines &&
                        facts.input.lines <= facts.input.bytes && facts.input.requests <= facts.input.lines;
  return possible ? std::optional(facts) : std::nullopt;
} catch (const ordered_json::exception&) {
  return std::nullopt;
}

// The first fact in which a rerun differs, as a sentence; empty: none.
std::string difference(const JobFacts& then, const JobFacts& now, const std::string& input_path) {
  if (then.input != now.input) {
    return fmt::format("-i {}: it has changed since ({} in {} lines then, {} in {} lines now)", input_path,
                       format_bytes(then.input.bytes), then.input.lines, format_bytes(now.input.bytes),
                       now.input.lines);
  }
  if (then.model != now.model) return "-m: it is another model";
  if (then.shard != now.shard || then.shards != now.shards) {
    return fmt::format("--shard: it was {}/{}, and is {}/{}", then.shard, then.shards, now.shard, now.shards);
  }
  const auto value = [](const JobFacts& facts, const std::string& name) {
    for (const auto& [flag, text] : facts.flags) {
      if (flag == name) return text;
    }
    return std::string();
  };
  const auto shown = [](const std::string& text) { return text.empty() ? "not given" : text; };
  for (const auto& flags : {then.flags, now.flags}) {
    for (const auto& [name, unused] : flags) {
      const std::string before = value(then, name), after = value(now, name);
      if (before != after) return fmt::format("{}: it was {}, and is {}", name, shown(before), shown(after));
    }
  }
  return "";
}

// What the death of a first run can have left of a record: its beginning, or zeros where nothing was written back.
bool torn_record(std::string_view text) {
  constexpr std::string_view kBeginning = "{\"spillway_batch\"";
  std::string squeezed;
  for (const char c : text) {
    if (c != '\0' && c != ' ' && c != '\n') squeezed += c;
    if (squeezed.size() == kBeginning.size()) break;
  }
  return kBeginning.starts_with(squeezed);
}

bool holds_anything(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && status.st_size > 0;
}

}  // namespace

JobRecord::JobRecord(const std::string& output, bool make) : output_(output) {
  const std::string path = name(output);
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | (make ? O_CREAT : 0), 0666);
  if (descriptor_ < 0 && errno == ENOENT && !make) {
    throw Error(ErrorKind::usage, fmt::format("{}: there is no {}, which lies beside the output of a batch", output,
                                              std::filesystem::path(path).filename().string()));
  }
  if (descriptor_ < 0) throw Error(ErrorKind::usage, fmt::format("{}: {}", path, std::strerror(errno)));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(std::exchange(descriptor_, -1));
    if (error != EWOULDBLOCK) fail(path, error);
    throw Error(ErrorKind::usage, fmt::format("{}: another run is writing it", output));
  }
}

JobRecord::JobRecord(JobRecord&& other) noexcept
    : output_(std::move(other.output_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      facts_(std::move(other.facts_)) {}

JobRecord::~JobRecord() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::string JobRecord::read() const {
  std::string text(kMostBytes, '\0');
  const ssize_t count = ::pread(descriptor_, text.data(), text.size(), 0);
  if (count < 0) fail(name(output_), errno);
  text.resize(static_cast<size_t>(count));
  return text;
}

// Never in place of one that has answers: they would lose what they follow from.
void JobRecord::write() {
  const std::string text = text_of(facts_);
  if (text.size() >= kMostBytes) {
    throw Error(ErrorKind::usage, fmt::format("{}: a record of {} bytes, {} at most are read", name(output_),
                                              text.size(), kMostBytes - 1));
  }
  const bool written = ::pwrite(descriptor_, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
                       ::ftruncate(descriptor_, static_cast<off_t>(text.size())) == 0 && ::fsync(descriptor_) == 0;
  if (!written) fail(name(output_), errno);
  sync_folder_of(output_);
}

JobRecord JobRecord::open(const std::string& output, const JobFacts& facts, const std::string& input_path) {
  if (facts.input.lines > kMostLines) {
    throw Error(ErrorKind::usage, fmt::format("-i {}: {} lines; {} at most are answered in one job", input_path,
                                              facts.input.lines, kMostLines));
  }
  JobRecord record(output, true);
  const std::string text = record.read();
  const auto found = facts_of(text);
  if (!found && !torn_record(text)) {
    throw Error(ErrorKind::usage,
                fmt::format("{}: it is there, lies where the record of -o {} would, and is none: give "
                            "another -o, or remove it",
                            name(output), output));
  }
  // The first run may have died before its record was whole, or its output was taken away since.
  if (!found || !holds_anything(output)) {
    if (holds_anything(output)) {
      if (text.empty()) ::unlink(name(output).c_str());  // made just now
      throw Error(ErrorKind::usage,
                  fmt::format("-o {}: it is there, and nothing says that it is of this job ({} is not whole): give "
                              "another, or remove it",
                              output, name(output)));
    }
    record.facts_ = facts;
    record.write();
    return record;
  }
  record.facts_ = *found;
  const std::string differs = difference(*found, facts, input_path);
  if (differs.empty()) return record;
  throw Error(ErrorKind::usage,
              fmt::format("{}; {} was begun otherwise: go on as then, or give another -o", differs, output));
}

void JobRecord::settle(const std::vector<std::pair<std::string, std::string>>& found) {
  if (facts_.found.empty() && !found.empty()) {
    facts_.found = found;
    write();
    return;
  }
  const size_t count = std::max(found.size(), facts_.found.size());
  for (size_t i = 0; i < count; ++i) {
    const auto fact = [i](const auto& list) {
      return i < list.size() ? list[i] : std::pair<std::string, std::string>();
    };
    const auto then = fact(facts_.found), now = fact(found);
    if (then == now) continue;
    throw Error(ErrorKind::usage,
                fmt::format("{}: it was {}, and is {}; {} was begun otherwise, and its answers would "
                            "not be of one kind: give another -o",
                            then.first.empty() ? now.first : then.first, then.second, now.second, output_));
  }
}

JobRecord JobRecord::open_existing(const std::string& output) {
  JobRecord record(output, false);
  const auto found = facts_of(record.read());
  if (!found) throw Error(ErrorKind::usage, fmt::format("{}: it is no record of a batch", name(output)));
  record.facts_ = *found;
  return record;
}

}  // namespace spillway

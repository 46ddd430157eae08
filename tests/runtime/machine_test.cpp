#include "runtime/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/backend.h"
#include "kernels/check.h"
#include "runtime/machine_cache.h"

namespace spillway {
namespace {

using nlohmann::json;

class MachineTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("machine_" + std::to_string(getpid()) + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
    write(folder_ / "model", std::string(3 << 20, 'm'));
    device_ = make_cpu_device({.threads = 1});
    options_.model_path = folder_ / "model";
    options_.disk_folder = folder_;
    options_.threads = 1;
    options_.most_bytes = 20 << 20;
    options_.cache_file = folder_ / "machine.json";
    options_.seconds = 0.1;
    options_.most_others = 2;  // whatever else this machine does now
    options_.progress = [this](std::string_view line) { said_.emplace_back(line); };
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static void write(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string read(const std::filesystem::path& path) {
    std::stringstream all;
    all << std::ifstream(path).rdbuf();
    return all.str();
  }
  Machine measure() {
    said_.clear();
    return measure_machine(*device_, options_);
  }
  json cache() const { return json::parse(read(options_.cache_file)); }

  std::filesystem::path folder_;
  std::unique_ptr<Device> device_;
  MachineOptions options_;
  std::vector<std::string> said_;
};

TEST_F(MachineTest, MeasuresOnceAndKeeps) {
  const Machine first = measure();
  EXPECT_FALSE(first.kept);
  EXPECT_FALSE(said_.empty());
  EXPECT_GT(first.cores, 0);
  EXPECT_EQ(first.threads, 1);
  EXPECT_GT(first.memory_free, 0u);
  EXPECT_LE(first.memory_free, first.memory_total);
  EXPECT_GT(first.compute.memory_read, 0);
  EXPECT_GT(first.compute.host_to_device, 0);
  EXPECT_GT(first.compute.device_to_host, 0);
  EXPECT_GT(first.compute.working_set, 0u);
  EXPECT_LE(first.compute.working_set, options_.most_bytes);
  EXPECT_GT(first.weight_speed(DType::q4_0).decode_bytes, 0);
  EXPECT_GT(first.weight_speed(DType::q4_0).prefill_flops, 0);
  EXPECT_GT(first.model_disk.read, 0);
  EXPECT_GT(first.model_disk.latency_s, 0);
  EXPECT_GT(first.spill_disk.write, 0);
  EXPECT_EQ(first.spill_disk.read, first.model_disk.read);  // the same drive

  const Machine second = measure();
  EXPECT_TRUE(second.kept);
  EXPECT_TRUE(said_.empty());
  EXPECT_EQ(to_json(second.compute), to_json(first.compute));
  EXPECT_EQ(to_json(second.model_disk), to_json(second.spill_disk));
  EXPECT_EQ(second.model_disk.read, first.model_disk.read);
  EXPECT_EQ(second.spill_disk.write, first.spill_disk.write);

  struct stat status {};
  ASSERT_EQ(::stat(options_.cache_file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}),
            2);  // the model and the cache: nothing else
}

TEST_F(MachineTest, RefreshMeasuresAgain) {
  measure();
  json changed = cache();
  for (json& entry : changed["compute"]) entry["memory_read"] = 12345.0;
  for (json& entry : changed["disks"]) entry["read"] = entry["write"] = 12345.0;
  write(options_.cache_file, changed.dump());
  EXPECT_EQ(measure().compute.memory_read, 12345.0);
  options_.refresh = true;
  const Machine again = measure();
  EXPECT_FALSE(again.kept);
  EXPECT_NE(again.compute.memory_read, 12345.0);
  EXPECT_NE(again.model_disk.read, 12345.0);
  EXPECT_NE(again.spill_disk.write, 12345.0);
  EXPECT_EQ(cache()["compute"].begin().value()["memory_read"], again.compute.memory_read);
}

TEST_F(MachineTest, WhatWasMeasuredBesideOthersIsMeasuredAgainAFewTimesAndTheBetterCounts) {
  options_.most_others = -1;  // any share is too much
  const Machine first = measure();
  const auto doubted = [&] {
    return std::count_if(said_.begin(), said_.end(),
                         [](const std::string& line) { return line.find("others used") != std::string::npos; });
  };
  EXPECT_EQ(doubted(), 3);  // all that computes, reads and writes
  json changed = cache();
  for (json& entry : changed["compute"]) {
    entry["memory_read"] = 12345.0;
    entry["host_to_device"] = 9e15;
  }
  write(options_.cache_file, changed.dump());
  const Machine second = measure();
  EXPECT_FALSE(second.kept);
  EXPECT_GT(second.compute.memory_read, 12345.0);
  EXPECT_EQ(second.compute.host_to_device, 9e15);
  EXPECT_EQ(second.compute.conditions.tries, 2);
  EXPECT_FALSE(measure().kept);
  EXPECT_NE(said_.back().find("--refresh"), std::string::npos);
  EXPECT_TRUE(measure().kept);  // three times are enough
}

TEST_F(MachineTest, OnlyWhatIsMissingIsMeasured) {
  const Machine first = measure();
  options_.types = {DType::q4_0, DType::f16};
  const Machine second = measure();
  EXPECT_FALSE(second.kept);
  EXPECT_EQ(second.compute.memory_read, first.compute.memory_read);
  EXPECT_EQ(second.compute.weights.at(DType::q4_0).decode_bytes, first.compute.weights.at(DType::q4_0).decode_bytes);
  EXPECT_GT(second.compute.weights.at(DType::f16).decode_bytes, 0);
  EXPECT_EQ(said_.size(), 2u);  // that it measures, and F16
  options_.types = {DType::f16};
  EXPECT_TRUE(measure().kept);
}

TEST_F(MachineTest, AttentionIsMeasuredForTheHeadsOfAModel) {
  const Machine first = measure();
  EXPECT_EQ(first.attention_speed({4, 2, 32}), 0);
  options_.heads = {4, 2, 32};
  const Machine second = measure();
  EXPECT_FALSE(second.kept);
  EXPECT_GT(second.attention_speed({4, 2, 32}), 0);
  EXPECT_EQ(second.attention_speed({4, 4, 32}), 0);
  EXPECT_GT(second.compute.call_s, 0);
  EXPECT_EQ(second.compute.memory_read, first.compute.memory_read);
  const Machine third = measure();
  EXPECT_TRUE(third.kept);
  EXPECT_EQ(to_json(third.compute), to_json(second.compute));
  // Heads that no memory of the measurement holds: said to be unknown, once.
  options_.heads = {1 << 20, 1 << 20, 256};
  EXPECT_EQ(measure().attention_speed(options_.heads), 0);
  EXPECT_TRUE(measure().kept);
}

TEST_F(MachineTest, BrokenAndForeignCachesAreMeasuredOver) {
  options_.model_path.clear();
  options_.disk_folder.clear();
  measure();
  const json good = cache();
  const auto with = [&](const char* field, const json& value) {
    json changed = good;
    for (json& entry : changed["compute"]) entry[field] = value;
    return changed.dump();
  };
  json older = good, renamed = good;
  older["format"] = 0;
  renamed["compute"] = json::object({{"another processor", good["compute"].begin().value()}});
  const std::string cases[] = {
      "", "{", "\xff\xfe\x00garbage", "[]", "null", "{\"format\":2}", "{\"format\":2,\"compute\":[],\"disks\":3}",
      older.dump(), renamed.dump(), good.dump().substr(0, good.dump().size() / 2), with("memory_read", -1),
      with("memory_read", 0), with("memory_read", "fast"), with("memory_read", 1e300), with("memory_read", nullptr),
      with("weights", json::array({1})), with("weights", {{"Q9_9", {{"decode_bytes", 1}, {"prefill_flops", 1}}}}),
      with("weights", {{"Q4_0", {{"decode_bytes", 1}}}}), with("working_set", -5), with("working_set", 4096),
      std::string(2 << 20, ' ') + good.dump(),
      // Written back, it would be printed level by level on the stack.
      "{\"a\":" + std::string(400000, '[') + std::string(400000, ']') + "," + good.dump().substr(1)};
  for (const std::string& text : cases) {
    write(options_.cache_file, text);
    const Machine machine = measure();
    EXPECT_FALSE(machine.kept) << text.substr(0, 200);
    EXPECT_GT(machine.compute.memory_read, 1e6) << text.substr(0, 200);
    EXPECT_TRUE(measure().kept) << text.substr(0, 200);
  }
  // A broken record of the time alone does no harm.
  write(options_.cache_file, with("measured_at", "yesterday"));
  EXPECT_TRUE(measure().kept);
}

TEST_F(MachineTest, MissingPathsAreNamed) {
  options_.model_path = folder_ / "missing.gguf";
  try {
    measure();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::model);
    EXPECT_THAT(error.what(), testing::HasSubstr("missing.gguf"));
  }
  options_.model_path.clear();
  options_.disk_folder = folder_ / "nowhere";
  try {
    measure();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_THAT(error.what(), testing::HasSubstr("nowhere"));
  }
}

TEST_F(MachineTest, ACacheThatCannotBeWrittenIsSaid) {
  options_.cache_file = folder_ / "nowhere" / "machine.json";
  const Machine machine = measure();
  EXPECT_GT(machine.compute.memory_read, 0);
  EXPECT_THAT(said_.back(),
              testing::AllOf(testing::HasSubstr("cannot be kept"), testing::HasSubstr("nowhere/machine.json")));
}

TEST_F(MachineTest, SmallFiles) {
  for (const size_t bytes : {1, 100, 4096, 5000, 70000}) {
    write(folder_ / "model", std::string(bytes, 'm'));
    options_.disk_folder.clear();
    options_.refresh = true;
    const Machine machine = measure();
    EXPECT_GT(machine.model_disk.read, 0) << bytes;
    EXPECT_GT(machine.model_disk.latency_s, 0) << bytes;
  }
}

TEST_F(MachineTest, AnUnknownTypeIsTakenForTheSlowest) {
  Machine machine;
  machine.compute.weights = {{DType::f16, {10, 300}}, {DType::q4_0, {8, 500}}};
  EXPECT_EQ(machine.weight_speed(DType::f16).decode_bytes, 10);
  EXPECT_EQ(machine.weight_speed(DType::q8_0).decode_bytes, 8);
  EXPECT_EQ(machine.weight_speed(DType::q8_0).prefill_flops, 300);
  EXPECT_EQ(Machine{}.weight_speed(DType::f16).decode_bytes, 0);
}

TEST_F(MachineTest, TheOldestOfManyEntriesGoes) {
  MachineCache cache(options_.cache_file);
  for (int i = 0; i < 40; ++i) cache.put(std::to_string(i), DiskProfile{.read = 1.0 + i, .method = "m"});
  cache.put("compute", ComputeProfile{.memory_read = 5});
  cache.save();
  const MachineCache again(options_.cache_file);
  EXPECT_EQ(this->cache()["disks"].size(), 16u);
  ASSERT_TRUE(again.disk("39").has_value());
  EXPECT_EQ(again.disk("39")->read, 40.0);
  EXPECT_FALSE(again.disk("missing").has_value());
  EXPECT_EQ(again.compute("compute")->memory_read, 5);
}

TEST_F(MachineTest, JsonNamesWhatWasMeasured) {
  options_.cache_file.clear();
  const json machine = to_json(measure());
  for (const char* name : {"processor", "device", "kernel", "cores", "threads", "memory_total", "memory_free",
                           "compute", "model_disk", "spill_disk"}) {
    EXPECT_TRUE(machine.contains(name)) << name;
  }
  EXPECT_GT(machine["compute"]["weights"]["Q4_0"]["prefill_flops"].get<double>(), 0);
}

}  // namespace
}  // namespace spillway

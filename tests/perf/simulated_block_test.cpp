// A block in simulated time: never faster than the bytes and products that it cannot do without, nothing of the model
// read or reserved, and said to be simulated, on which machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "perf/opt_shapes.h"
#include "perf/simulated/block.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// Bytes that this process has asked to read, by whatever call.
uint64_t bytes_read() {
  std::ifstream io("/proc/self/io");
  std::string key;
  uint64_t value = 0;
  while (io >> key >> value) {
    if (key == "rchar:") return value;
  }
  return 0;
}

class SimulatedBlockTest : public ::testing::Test {
 protected:
  SimulatedBlockTest()
      : path_(std::filesystem::path(::testing::TempDir()) / ("simulated_block_" + std::to_string(getpid()) + ".gguf")),
        checkpoint_(open_model(write_model_outline(shape(), path_))),
        spec_(read_model_spec(checkpoint_)) {}
  ~SimulatedBlockTest() override { std::filesystem::remove(path_); }

  static TinyModelOptions shape() {
    TinyModelOptions options = opt_shape(24, 16, 1024);
    options.type = DType::f16;
    return options;
  }
  // 0.7 GB of weights, a fifth of which the device holds, and the host what is said.
  static GivenMachine machine(uint64_t host_mib) {
    GivenMachine one = given_machine("t4-fitted");
    one.name = "a small one";
    one.device_bytes = 160 * kMiB;
    one.host_bytes = host_mib * kMiB;
    return one;
  }
  std::optional<SimulatedBlock> simulate(const GivenMachine& on, const BlockWork& work) const {
    return simulate_block(spec_, checkpoint_, on, work);
  }

  std::filesystem::path path_;
  Checkpoint checkpoint_;
  ModelSpec spec_;
};

// Counted anew from the tiers: each of an answer's tokens brings what is not on the device once.
TEST_F(SimulatedBlockTest, NoFasterThanItsBytesAndProducts) {
  int from_host = 0, from_disk = 0;
  for (const uint64_t host_mib : {48, 400, 2000}) {
    for (const int sequences : {0, 1, 7, 64}) {
      const GivenMachine on = machine(host_mib);
      const BlockWork work{.prompt = 96, .answer = 8, .chunks = {32, 128}, .sequences = sequences};
      const auto block = simulate(on, work);
      if (!block) continue;
      const auto host = static_cast<double>(block->plan.tier(Tier::host).weights);
      const auto disk = static_cast<double>(block->plan.tier(Tier::disk).weights);
      const double link_s = 8 * (host + disk) / on.link, disk_s = 8 * disk / on.disk_read;
      EXPECT_GE(block->seconds(), link_s);
      EXPECT_GE(block->seconds(), disk_s);
      EXPECT_GE(block->bound_s, std::max(link_s, disk_s) * (1 - 1e-9));
      EXPECT_LE(block->tokens_per_second(), block->bound_tokens_per_second());
      const double products = 24.0 * 12 * 1024 * 1024;  // of a token, without the head
      EXPECT_GE(block->seconds(), 2 * products * block->plan.batch * (96 + 7) / on.flops);
      EXPECT_GE(block->passes, 8);
      if (sequences > 0) {
        EXPECT_EQ(block->plan.batch, sequences);
      }
      from_host += host > 0 ? 1 : 0;
      from_disk += disk > 0 ? 1 : 0;
    }
  }
  EXPECT_GE(from_host, 4);
  EXPECT_GE(from_disk, 2);
}

TEST_F(SimulatedBlockTest, ABlockSharesWhatStreams) {
  const BlockWork one{.prompt = 96, .answer = 8, .chunks = {128}, .sequences = 1};
  BlockWork many = one;
  many.sequences = 16;
  const auto alone = simulate(machine(2000), one), together = simulate(machine(2000), many);
  ASSERT_TRUE(alone && together);
  EXPECT_GT(together->tokens_per_second(), 3 * alone->tokens_per_second());
  GivenMachine slower = machine(2000);
  slower.link /= 10;
  const auto starved = simulate(slower, one);
  ASSERT_TRUE(starved);
  EXPECT_LT(starved->tokens_per_second(), alone->tokens_per_second() / 5);
}

TEST_F(SimulatedBlockTest, ReadsNothingOfTheModel) {
  struct stat facts {};
  ASSERT_EQ(stat(path_.c_str(), &facts), 0);
  ASSERT_GT(static_cast<uint64_t>(facts.st_size), 600 * kMiB);
  EXPECT_LT(static_cast<uint64_t>(facts.st_blocks) * 512, 8 * kMiB) << "holes take no room";
  const uint64_t before = bytes_read();
  ASSERT_GT(before, 0u);
  ASSERT_TRUE(simulate(machine(48), {.prompt = 96, .answer = 8, .chunks = {128}}));
  EXPECT_LT(bytes_read() - before, kMiB);
}

TEST_F(SimulatedBlockTest, SaysThatItIsSimulatedAndWhere) {
  const GivenMachine on = machine(2000);
  const auto block = simulate(on, {.prompt = 96, .answer = 8, .chunks = {128}});
  ASSERT_TRUE(block);
  EXPECT_EQ(to_json(*block)["simulated"], true);
  EXPECT_EQ(to_json(on)["name"], "a small one");
  EXPECT_EQ(to_json(on)["measured"], false);
  GivenMachine tiny = on;
  tiny.device_bytes = kMiB;
  EXPECT_FALSE(simulate(tiny, {.prompt = 96, .answer = 8, .chunks = {128}})) << "what does not fit has no speed";
}

TEST_F(SimulatedBlockTest, MachinesOutOfFiles) {
  const std::string path = (std::filesystem::path(::testing::TempDir()) / "given_machine.json").string();
  std::ofstream(path) << to_json(machine(48)).dump();
  EXPECT_EQ(to_json(given_machine(path)), to_json(machine(48)));
  nlohmann::json broken = to_json(machine(48));
  broken["link"] = 0;
  std::ofstream(path) << broken.dump();
  EXPECT_THAT([&] { given_machine(path); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr(path + ": link: a positive number is wanted")));
  std::filesystem::remove(path);
  EXPECT_THAT([] { given_machine("t5"); }, ::testing::ThrowsMessage<Error>(::testing::HasSubstr("--machine t5")));
}

}  // namespace
}  // namespace spillway

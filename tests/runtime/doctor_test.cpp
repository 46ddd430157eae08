// Doctor: what each finding says of machines that are not this one, and that this one is examined whole.
#include "runtime/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "kernels/backend.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class Doctor : public ::testing::Test {
 protected:
  Doctor() { fs::create_directories(root_); }
  ~Doctor() override { fs::remove_all(root_); }
  void put(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void put_card(const std::string& address, const std::string& width) {
    const std::string folder = "sys/bus/pci/devices/" + address + "/";
    put(folder + "vendor", "0x10de\n");
    put(folder + "class", "0x030200\n");
    put(folder + "current_link_width", width + "\n");
    put(folder + "max_link_width", "16\n");
    put(folder + "max_link_speed", "16.0 GT/s PCIe\n");
    put(folder + "numa_node", "1\n");
  }
  const fs::path root_ = fs::path(::testing::TempDir()) / ("doctor-" + std::to_string(getpid()));
};

TEST_F(Doctor, LockedMemoryIsSlowOnlyWhereTheLimitBinds) {
  EXPECT_EQ(judge_locked_memory({}, false).health, Health::ok);
  EXPECT_EQ(judge_locked_memory(uint64_t{8} << 20, true).health, Health::ok);
  const Finding finding = judge_locked_memory(uint64_t{8} << 20, false);
  EXPECT_EQ(finding.health, Health::slow);
  EXPECT_THAT(finding.found, HasSubstr("8 MiB"));
  EXPECT_THAT(finding.mend, HasSubstr("ulimit -l"));
}

TEST_F(Doctor, AQuotaBelowTheProcessorsIsSlow) {
  EXPECT_EQ(judge_groups({}, 1, {}, 8).health, Health::ok);
  EXPECT_EQ(judge_groups({}, 1, 8.0, 8).health, Health::ok);
  const Finding finding = judge_groups(uint64_t{4} << 30, uint64_t{3} << 30, 1.5, 8);
  EXPECT_EQ(finding.health, Health::slow);
  EXPECT_THAT(finding.found, HasSubstr("4 GiB"));
  EXPECT_THAT(finding.mend, HasSubstr("1.5"));
}

TEST_F(Doctor, DrivesAreJudgedByTheirSpeed) {
  DiskProfile profile{.read = 3e9, .write = 1e9, .latency_s = 1e-4, .method = "io_uring", .through_cache = false};
  EXPECT_EQ(judge_reads("m", profile).health, Health::ok);
  EXPECT_EQ(judge_writes("f", profile).health, Health::ok);
  profile.through_cache = true;
  EXPECT_EQ(judge_reads("m", profile).health, Health::slow) << "no speed of the drive";
  profile = {.read = 1e8, .write = 1e8, .latency_s = 1e-2, .method = "", .through_cache = false};
  EXPECT_EQ(judge_reads("m", profile).health, Health::slow);
  EXPECT_EQ(judge_writes("f", profile).health, Health::slow);
  EXPECT_THAT(judge_writes("f", {}).found, HasSubstr("too little room"));
}

TEST_F(Doctor, CardsAndDriverAreReadAsTheKernelWritesThem) {
  put_card("0000:41:00.0", "16");
  put_card("0000:01:00.0", "4");
  put("sys/bus/pci/devices/0000:02:00.0/vendor", "0x8086\n");
  put("sys/bus/pci/devices/0000:02:00.0/class", "0x030000\n");
  const std::vector<PciCard> cards = nvidia_cards(root_);
  ASSERT_EQ(cards.size(), 2u);
  EXPECT_EQ(cards[0].address, "0000:01:00.0");
  EXPECT_EQ(cards[0].width, 4);
  EXPECT_EQ(cards[0].node, 1);
  EXPECT_NEAR(cards[1].bytes_per_second(), 31.5e9, 0.1e9) << "PCIe 4.0 x16";
  EXPECT_EQ(judge_link(cards[0]).health, Health::slow);
  EXPECT_EQ(judge_link(cards[1]).health, Health::ok);
  EXPECT_EQ(nvidia_driver(root_), "");
  for (const char* line : {"NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n",
                           "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build\n"}) {
    put("proc/driver/nvidia/version", line);
    EXPECT_EQ(nvidia_driver(root_), "535.104.05");
  }
}

TEST_F(Doctor, AMissingGpuIsBrokenOnlyWhereThereShouldBeOne) {
  const std::vector<PciCard> card{PciCard{.address = "0000:01:00.0"}};
  EXPECT_EQ(judge_missing_gpu({}, "", false, "no module").health, Health::ok);
  const Finding no_driver = judge_missing_gpu(card, "", true, "no driver");
  EXPECT_EQ(no_driver.health, Health::broken);
  EXPECT_THAT(no_driver.mend, HasSubstr("nvidia-driver"));
  EXPECT_THAT(judge_missing_gpu(card, "550.54", false, "no module").mend, HasSubstr("CUDA module"));
  EXPECT_THAT(judge_missing_gpu(card, "470.82", true, "refused").mend, HasSubstr("470.82 is older than 525"));
  EXPECT_THAT(judge_missing_gpu({}, "550.54", true, "no device").mend, HasSubstr("nvidia-smi"));
}

TEST_F(Doctor, ThisMachineIsExaminedWhole) {
  const auto device = make_cpu_device({});
  const auto named = [](const std::vector<Finding>& findings) {
    std::vector<std::string> names;
    for (const Finding& f : findings) {
      names.push_back(f.name);
      EXPECT_FALSE(f.found.empty()) << f.name;
      EXPECT_EQ(f.mend.empty(), f.health == Health::ok) << f.name << ": " << f.found;
    }
    return names;
  };
  EXPECT_THAT(named(examine_host(*device)),
              ::testing::ElementsAre("processor", "topology", "memory", "control group", "locked memory"));
  put("model", std::string(1 << 20, 'x'));
  EXPECT_THAT(named(examine_drives(*device, (root_ / "model").string(), root_.string())),
              ::testing::ElementsAre("io_uring", "O_DIRECT", "reads", "O_DIRECT", "writes"));
  EXPECT_FALSE(named(examine_gpu({})).empty());
}

TEST_F(Doctor, ADriveThatCannotBeUsedIsBroken) {
  const auto device = make_cpu_device({});
  const auto findings = examine_drives(*device, (root_ / "none").string(), (root_ / "nowhere").string());
  ASSERT_EQ(findings.size(), 2u);
  for (const Finding& f : findings) EXPECT_EQ(f.health, Health::broken) << f.found;
}

}  // namespace
}  // namespace spillway

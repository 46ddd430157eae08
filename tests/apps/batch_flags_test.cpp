// Every flag of a batch is known to change its answers, or known not to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "apps/batch/answer_flags.h"
#include "apps/command_line.h"

namespace spillway {
namespace {

using ::testing::UnorderedElementsAreArray;

std::map<std::string, std::string> flags_of(const std::string& words) {
  CommandLine line("0");
  line.app.parse("batch " + words, false);
  std::map<std::string, std::string> flags;
  for (const auto& [name, value] : answer_flags(*line.app.get_subcommand("batch"))) flags[name] = value;
  return flags;
}

// A flag that is new fails this until it is in one of the two lists.
TEST(BatchFlags, EachIsKnownToChangeAnswersOrNotTo) {
  std::vector<std::string> names;
  for (const auto& [name, value] : flags_of("")) names.push_back(name);
  EXPECT_THAT(names, UnorderedElementsAreArray({"--deterministic",  "--predict",      "--seed",    "--ignore-eos",
                                                "--ctx-size",       "--ubatch-size",  "--isa",     "--kv-type",
                                                "--kv-edge-layers", "--kv-select",    "--kv-keep", "--select-budget",
                                                "--select-alpha",   "--select-top-p", "--rank",    "--key-bits",
                                                "--granule",        "--first-layers", "--ahead",   "--repair"}));
  CommandLine line("0");
  const CLI::App& batch = *line.app.get_subcommand("batch");
  for (const std::string& name : harmless_flags()) EXPECT_NE(batch.get_option_no_throw(name), nullptr) << name;
}

TEST(BatchFlags, ValuesAreWhatTheyMean) {
  const auto given = flags_of("");
  for (const char* words : {"--kv-keep window", "--select-alpha 4", "--select-top-p 0.5", "--repair", "--isa scalar",
                            "--kv-select rehearsal", "-c 64", "-n 3", "-s 5", "--deterministic"}) {
    EXPECT_NE(flags_of(words), given) << words;
  }
  for (const char* words : {"-c 0", "--no-deterministic", "--isa auto", "--kv-keep all", "-n -1", "--np 3",
                            "--hot-set 5", "--device-mem 1GiB", "--check-every 7"}) {
    EXPECT_EQ(flags_of(words), given) << words;
  }
}

}  // namespace
}  // namespace spillway

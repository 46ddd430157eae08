// The built program on a tiny model, each test in a folder of its own.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/apps/program.h"
#include "tests/support/faults.h"
#include "tests/support/tiny_model.h"

namespace spillway {

class Cli : public ::testing::Test {
 protected:
  Cli() { model_ = write_program_model(folder_); }

  pid_t start(const std::vector<std::string>& arguments) { return program_.start(arguments); }
  Result run(const std::vector<std::string>& arguments) { return program_.run(arguments); }

  // A device budget that holds everything but half of the KV of `positions`.
  std::string tight_budget(int positions) {
    const Result plan = run({"plan", "-m", model_, "-c", std::to_string(positions), "--json"});
    const auto device = nlohmann::json::parse(plan.out)["tiers"]["device"];
    const auto of = [&](const char* what) { return device[what].get<uint64_t>(); };
    return std::to_string(of("process") + of("workspace") + of("weights") + of("kv") / 2);
  }

  // The tiny model under a fault; text goes nowhere but the outcome.
  faults::Outcome run_faulty(const std::vector<faults::Fault>& rules, std::vector<std::string> arguments) {
    std::vector<std::string> command{"/usr/bin/env", "XDG_CACHE_HOME=" + Program::cache(), SPILLWAY_PROGRAM};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return faults::run_command(rules, command);
  }

  std::string prompt_file(int words) {
    std::ofstream file(folder_ / "prompt.txt");
    for (int i = 0; i < words; ++i) file << "spill " << i % 7 << " ";
    return (folder_ / "prompt.txt").string();
  }

  Program program_;
  const std::filesystem::path& folder_ = program_.folder();
  std::string model_;
};

}  // namespace spillway

// Completions and the man page know every command and flag that --help shows, and their shells understand them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <regex>
#include <set>

#include "tests/apps/program.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;

struct Ran {
  int code = -1;
  std::string out;
};

Ran shell(const std::string& command) {
  Ran ran;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> bytes{};
  for (size_t count; (count = fread(bytes.data(), 1, bytes.size(), pipe)) > 0;) ran.out.append(bytes.data(), count);
  ran.code = WEXITSTATUS(pclose(pipe));
  return ran;
}

std::string described(const std::string& what) { return shell(SPILLWAY_PROGRAM " completion " + what).out; }

// Names of flags in the words of --help.
std::set<std::string> flags_of(const std::string& help) {
  std::set<std::string> flags;
  const std::regex line(R"((?:^|\n)  (-[^\s]+))"), name(R"(--?[a-z][a-z-]*)");
  for (std::sregex_iterator at(help.begin(), help.end(), line), end; at != end; ++at) {
    const std::string names = (*at)[1];
    for (std::sregex_iterator n(names.begin(), names.end(), name); n != end; ++n) flags.insert(n->str());
  }
  return flags;
}

class Describe : public ::testing::Test {
 protected:
  Describe() {
    const std::string help = program_.run({"--help"}).out;
    const std::regex line(R"(\n  ([a-z]+)  )");
    const std::string list = help.substr(help.find("Subcommands:"));
    for (std::sregex_iterator at(list.begin(), list.end(), line), end; at != end; ++at) commands_.push_back((*at)[1]);
  }
  Program program_;
  std::vector<std::string> commands_;
};

TEST_F(Describe, EveryFlagOfHelpIsInAll) {
  ASSERT_GE(commands_.size(), 7u);
  const std::string bash = described("bash"), zsh = described("zsh"), fish = described("fish"), man = described("man");
  for (const std::string& command : commands_) {
    const std::set<std::string> flags = flags_of(program_.run({command, "--help"}).out);
    ASSERT_GE(flags.size(), command == "completion" ? 2u : 4u) << command;
    const size_t at = bash.find("    " + command + ")\n");
    ASSERT_NE(at, std::string::npos) << command;
    const std::string line = " " + bash.substr(at, bash.find('\n', bash.find("flags=", at)) - at) + " ";
    const size_t zsh_at = zsh.find("    " + command + ")\n");
    ASSERT_NE(zsh_at, std::string::npos) << command;
    const std::string zsh_case = zsh.substr(zsh_at, zsh.find(";;", zsh_at) - zsh_at);
    for (const std::string& flag : flags) {
      EXPECT_TRUE(std::regex_search(line, std::regex("[ \"]" + flag + "[ \"]"))) << command << " " << flag;
      EXPECT_THAT(zsh_case, HasSubstr("'" + flag + "["));
      const bool is_long = flag.starts_with("--");
      const std::string fish_line = "complete -c spillway -n '__fish_seen_subcommand_from " + command + "'[^\n]* -" +
                                    (is_long ? "l " + flag.substr(2) : "s " + flag.substr(1)) + " ";
      EXPECT_TRUE(std::regex_search(fish, std::regex(fish_line))) << fish_line;
      std::string roff = "\\fB" + std::regex_replace(flag, std::regex("-"), "\\-") + "\\fR";
      EXPECT_THAT(man, HasSubstr(roff));
    }
    EXPECT_THAT(man, HasSubstr(".SS " + command + "\n"));
    EXPECT_THAT(fish, HasSubstr("-a " + command + " "));
  }
}

TEST_F(Describe, BashCompletes) {
  const std::string script = program_.write("completion", described("bash"));
  const auto complete = [&](const std::string& words) {
    return shell("bash --norc -c 'source " + script + "; COMP_WORDS=(" + words +
                 "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _spillway; echo \"${COMPREPLY[*]}\"'")
        .out;
  };
  EXPECT_EQ(complete("spillway ge"), "generate\n");
  EXPECT_EQ(complete("spillway batch me"), "merge\n");
  EXPECT_EQ(complete("spillway chat --sys"), "--sys --system-prompt\n");
  EXPECT_EQ(complete("spillway plan --device cu"), "cuda\n");
  EXPECT_EQ(complete("spillway completion f"), "fish\n");
  EXPECT_EQ(complete("spillway score --kv-type k"), "kivi4 kivi2\n");
  EXPECT_EQ(complete("spillway score --granule 1"), "1 16\n");
  EXPECT_EQ(complete("spillway bench -o j"), "json\n");
  EXPECT_EQ(complete("spillway batch -o " + script.substr(0, script.size() - 3)), script + "\n");
  EXPECT_EQ(complete("spillway generate --plan " + script.substr(0, script.size() - 3)), script + "\n");
  EXPECT_EQ(complete("spillway generate -n \"\""), "\n") << "a number is not guessed";
  EXPECT_EQ(complete("spillway inspect " + script.substr(0, script.size() - 3)), script + "\n");
}

TEST_F(Describe, ShellsAndManUnderstand) {
  const std::vector<std::array<std::string, 3>> readers{{"bash", "bash -n ", "bash"},
                                                        {"zsh", "zsh -n ", "zsh"},
                                                        {"fish", "fish -n ", "fish"},
                                                        {"man", "mandoc -T lint -W error ", "mandoc"}};
  for (const auto& [what, reader, program] : readers) {
    if (shell("command -v " + program).code != 0) continue;
    const Ran ran = shell(reader + program_.write("described-" + what, described(what)));
    EXPECT_EQ(ran.code, 0) << what << ": " << ran.out;
    EXPECT_EQ(ran.out, "") << what;
  }
}

}  // namespace
}  // namespace spillway

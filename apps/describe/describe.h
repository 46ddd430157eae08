// The command line, described for shells and for man(1) (spillway completion). Made from the very options that the
// program parses.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace spillway {

// An option as it is shown.
struct OptionText {
  std::vector<std::string> names;  // with their dashes, short ones first
  std::string value;               // "TEXT", "INT", ...; empty where it takes none
  std::string text;
  std::string group;  // empty: the command's own
  std::string fallback;
  std::string variable;              // of the environment
  std::vector<std::string> choices;  // what may be given; empty: anything
  bool file = false;                 // a file may be given
};

// A command of a command: "merge" of batch.
struct ActionText {
  std::string name, text;
  std::string arguments;
};

struct CommandText {
  std::string name, text;
  std::string argument;            // of the command itself, without a dash; empty where it takes none
  std::vector<std::string> words;  // that may be given there; empty: a file
  std::vector<OptionText> options;
  std::vector<ActionText> actions;
};

std::vector<CommandText> describe(const CLI::App& app);

std::string bash_completion(const std::vector<CommandText>& commands);
std::string zsh_completion(const std::vector<CommandText>& commands);
std::string fish_completion(const std::vector<CommandText>& commands);
// `version`: with the name of the program.
std::string man_page(const std::vector<CommandText>& commands, const std::string& version);

}  // namespace spillway

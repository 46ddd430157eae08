// The flags of a batch that its answers follow from, with their values: a run that differs in one of them is another
// job.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

namespace spillway {

// Of the command's own options all but those that are named harmless: a flag that is added is taken to change answers.
// A flag that was not given has the value of its default; empty: none.
std::vector<std::pair<std::string, std::string>> answer_flags(const CLI::App& command);

// The names of the harmless ones, of which the command has each.
std::vector<std::string> harmless_flags();

}  // namespace spillway

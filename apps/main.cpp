// spillway: the command line. Errors of the world end here, in one line and an exit code (docs/commands.md).
#include <fmt/format.h>
#ifdef SPILLWAY_MIMALLOC
#include <mimalloc.h>
#endif

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "apps/command_line.h"
#include "apps/environment.h"
#include "apps/interrupt.h"
#include "apps/output.h"
#include "kernels/check.h"
#include "kernels/trace.h"

namespace spillway {
namespace {

// Quoted flags behind --policies, which CLI11 would take for the command's own: "--policies=FLAGS", one by one.
std::vector<std::string> join_policies(const std::vector<std::string>& words) {
  const std::string name = "--policies";
  const auto quoted = [](const std::string& word) {
    return word.starts_with('-') && word.find(' ') != std::string::npos;
  };
  std::vector<std::string> joined;
  bool listing = false;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == name && i + 1 < words.size() && quoted(words[i + 1])) {
      listing = true;
    } else {
      listing = listing && quoted(words[i]);
      joined.push_back(listing ? name + "=" + words[i] : words[i]);
    }
  }
  return joined;
}

// llama.cpp's words of several letters behind one dash, which CLI11 would take apart.
std::vector<std::string> words_of(int argc, char** argv) {
  static const std::map<std::string, std::string> kLong{
      {"-ub", "--ubatch-size"}, {"-sys", "--system-prompt"}, {"-np", "--parallel"}, {"-ngl", "--gpu-layers"}};
  std::vector<std::string> words(argv + 1, argv + argc);
  for (std::string& word : words) {
    const auto found = kLong.find(word);
    if (found != kLong.end()) word = found->second;
  }
  return join_policies(words);
}

// A refusal begins with its flag. What came from the environment is named as it was given there.
std::string name_variable(const CLI::App& command, std::string what) {
  // CLI11's own words for what it cannot read.
  static const std::string kUnread = "Could not convert: ";
  if (const size_t equals = what.find(" = "); what.starts_with(kUnread) && equals != std::string::npos) {
    what = fmt::format("{}: '{}' is not what it takes", what.substr(kUnread.size(), equals - kUnread.size()),
                       what.substr(equals + 3));
  }
  for (const CLI::Option* option : command.get_options()) {
    const std::string flag = option->get_name();
    if (!what.starts_with(flag + ":") && !what.starts_with(flag + " ")) continue;
    const std::string variable = option->get_envname(), value = environment(variable.c_str());
    const bool given = !value.empty() && (option->empty() || option->results() == std::vector<std::string>{value});
    return given ? variable + what.substr(flag.size()) : what;
  }
  return what;
}

std::string explain(const CLI::App& app, const CLI::ParseError& error, const std::vector<std::string>& words) {
  if (app.get_subcommands().empty()) {
    std::string names;
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      names += (names.empty() ? "" : ", ") + command->get_name();
    }
    return words.empty() ? fmt::format("no command given: one of {}", names)
                         : fmt::format("'{}' is no command: one of {}", words.front(), names);
  }
  const CLI::App& command = *app.get_subcommands().front();
  const bool extras = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const std::string what = extras ? fmt::format("not expected: {}", fmt::join(app.remaining(true), " "))
                                  : name_variable(command, error.what());
  return fmt::format("{} (spillway {} --help)", what, command.get_name());
}

// CLI11 looks for --help first.
void refuse_unknown_command(const CLI::App& app, const std::vector<std::string>& words) {
  if (words.empty() || words.front().starts_with('-')) return;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->check_name(words.front())) return;
  }
  throw Error(ErrorKind::usage, explain(app, CLI::ExtrasError({}), words));
}

// CLI11 takes the word after "--flag=" for its value.
void refuse_missing_values(const CLI::App& app, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (!word.starts_with("--") || word.find('=') != word.size() - 1) continue;
    const std::string name = word.substr(2, word.size() - 3);
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
      if (command->get_name() != words.front()) continue;
      for (const CLI::Option* option : command->get_options()) {
        if (option->check_lname(name)) throw Error(ErrorKind::usage, "--" + name + ": no value after the =");
      }
    }
  }
}

// Parses and runs.
int run(int argc, char** argv) {
  CommandLine line(SPILLWAY_VERSION);
  CLI::App& app = line.app;
  const std::vector<std::string> words = words_of(argc, argv);
  refuse_unknown_command(app, words);
  refuse_missing_values(app, words);
  try {
    app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) throw Error(ErrorKind::usage, explain(app, error, words));
    std::ostringstream help;
    app.exit(error, help, help);
    put(help.str());
    return 0;
  }
  for (const auto& [command, start] : line.commands) {
    if (!command->parsed()) continue;
    try {
      return start();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::usage) throw;
      throw Error(ErrorKind::usage, name_variable(*command, error.what()));
    }
  }
  return static_cast<int>(ErrorKind::usage);
}

// One line on stderr, and the exit code.
int guarded(const std::function<int()>& body) {
  const auto fail = [](const char* what, int code) {
    std::fprintf(stderr, "spillway: %s\n", what);
    return code;
  };
  try {
    return body();
  } catch (const Interrupted&) {
    return fail("interrupted", kInterruptedCode);
  } catch (const Error& error) {
    return fail(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return fail("out of memory", static_cast<int>(ErrorKind::fit));
  } catch (const std::exception& error) {
    return fail(error.what(), static_cast<int>(ErrorKind::io));
  }
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  using namespace spillway;
#ifdef SPILLWAY_MIMALLOC
  // What is freed goes back at once, not after a while: the process is then as large as what it holds, whenever a plan
  // looks at it. The option's name changed with 2.1.
#if MI_MALLOC_VERSION >= 210
  mi_option_set(mi_option_purge_delay, 0);
#else
  mi_option_set(mi_option_decommit_delay, 0);
#endif
#endif
  const int code = guarded([&] { return run(argc, argv); });
  // A command that failed has its trace too: that is when one wants it.
  const int written = guarded([&] {
    Trace::finish();
    if (code == 0) flush_output();
    return 0;
  });
  return code != 0 ? code : written;
}

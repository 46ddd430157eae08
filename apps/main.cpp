// spillway: the command line. Errors of the world end here, in one line and an exit code (interface in README.md).
#include <cstdio>
#include <exception>
#include <vector>

#include <CLI/CLI.hpp>

#include "apps/commands.h"
#include "kernels/check.h"

int main(int argc, char** argv) {
  using namespace spillway;
  CLI::App app{"Runs language models, and contexts, that do not fit the GPU.", "spillway"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "spillway " SPILLWAY_VERSION);
  app.option_defaults()->always_capture_default(false);

  std::vector<std::pair<CLI::App*, Command>> commands;
  const auto add = [&](Command (*adder)(CLI::App&)) {
    Command run = adder(app);
    commands.emplace_back(app.get_subcommands([](CLI::App*) { return true; }).back(), std::move(run));
  };
  for (Command (*adder)(CLI::App&) : {add_generate, add_chat, add_score, add_plan, add_bench}) add(adder);

  try {
    app.parse(argc, argv);
    for (const auto& [command, run] : commands) {
      if (command->parsed()) return run();
    }
    return static_cast<int>(ErrorKind::usage);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : static_cast<int>(ErrorKind::usage);
  } catch (const Error& error) {
    std::fprintf(stderr, "spillway: %s\n", error.what());
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "spillway: out of memory\n");
    return static_cast<int>(ErrorKind::fit);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "spillway: %s\n", error.what());
    return static_cast<int>(ErrorKind::io);
  }
}

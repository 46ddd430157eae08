#include "apps/command_line.h"

namespace spillway {

CommandLine::CommandLine(const std::string& version) {
  app.require_subcommand(1);
  app.set_version_flag("--version", "spillway " + version);
  for (Command (*add)(CLI::App&) : {add_generate, add_chat, add_batch, add_score, add_plan, add_bench, add_quality,
                                    add_calibrate, add_inspect, add_doctor, add_completion}) {
    Command command = add(app);
    commands.emplace_back(app.get_subcommands([](CLI::App*) { return true; }).back(), std::move(command));
  }
}

}  // namespace spillway

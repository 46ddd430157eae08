// spillway plan: the placement that would be chosen and the speed to expect, reserving nothing.
#include <cstdio>

#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/reports.h"
#include "apps/running.h"

namespace spillway {

Command add_plan(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("plan", "Show the placement that would be chosen and the speed to expect; reserves nothing");
  flags->add(*command);
  return [flags] {
    Running running(*flags);
    const Plan plan = running.plan(flags->options.context, true);
    if (flags->json) {
      std::printf("%s\n", plan_json(plan).dump().c_str());
    } else {
      std::printf("%s\n%s\n%s", running.device_line().c_str(), describe_placement(plan).c_str(), describe_plan(plan).c_str());
    }
    return 0;
  };
}

}  // namespace spillway

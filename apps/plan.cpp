// spillway plan: the placement that would be chosen and the speed to expect, reserving nothing.
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/output.h"
#include "apps/reports.h"
#include "apps/running.h"
#include "runtime/describe_plan.h"

namespace spillway {

Command add_plan(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command =
      app.add_subcommand("plan", "Show the placement that would be chosen and the speed to expect; reserves nothing");
  flags->add(*command, Runs::nothing);
  return [flags] {
    Running running(*flags, {.only_planned = true, .text = false});
    const Plan plan = running.plan(flags->options.context, true);
    if (flags->json) {
      put(plan_json(plan).dump() + "\n");
    } else {
      put(running.device_line() + "\n" + describe_placement(plan) + "\n" + describe_plan(plan));
    }
    return 0;
  };
}

}  // namespace spillway

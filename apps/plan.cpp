// spillway plan: the placement that would be chosen and the speed to expect, reserving nothing.
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/output.h"
#include "apps/reports.h"
#include "apps/running.h"
#include "runtime/describe_plan.h"

namespace spillway {
namespace {

struct PlanFlags {
  RunFlags run;
  std::string out;
};

}  // namespace

Command add_plan(CLI::App& app) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command =
      app.add_subcommand("plan", "Show the placement that would be chosen and the speed to expect; reserves nothing");
  add_option(*command, "-o,--out", flags->out, "Write the plan to this file, for --plan")->type_name("FILE");
  flags->run.add(*command, Runs::nothing);
  return [flags] {
    Running running(flags->run, {.only_planned = true, .text = false, .for_later = !flags->out.empty()});
    const Plan plan = running.plan(flags->run.options.context, true);
    if (!flags->out.empty()) running.save(plan, flags->out);
    if (flags->run.json) {
      put(plan_json(plan).dump() + "\n");
    } else {
      put(running.device_line() + "\n" + describe_placement(plan) + "\n" + describe_plan(plan) +
          running.chunk_advice(plan));
    }
    return 0;
  };
}

}  // namespace spillway

// spillway plan: the placement that would be chosen and the speed to expect, reserving nothing.
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/flags.h"
#include "apps/output.h"
#include "apps/reports.h"
#include "apps/running.h"
#include "runtime/batch_plan.h"
#include "runtime/describe_plan.h"

namespace spillway {
namespace {

struct PlanFlags {
  RunFlags run;
  std::string out;
  int parallel = 1;
};

}  // namespace

Command add_plan(CLI::App& app) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command =
      app.add_subcommand("plan", "Show the placement that would be chosen and the speed to expect; reserves nothing");
  add_option(*command, "-o,--out", flags->out, "Write the plan to this file, for --plan")->type_name("FILE");
  add_option(*command, "--parallel,--np", flags->parallel,
             "For so many sequences that share passes, each of as many positions as -c says (-np)")
      ->check(within(1, BatchWishes::kMostSequences))
      ->capture_default_str();
  flags->run.add(*command, Runs::nothing);
  return [flags] {
    if (flags->parallel > 1) {
      if (flags->run.options.context == 0) {
        throw Error(ErrorKind::usage, "--parallel: -c says how many positions each takes");
      }
      flags->run.share(flags->parallel, 0);
    }
    Running running(flags->run, {.logit_rows = flags->parallel,
                                 .only_planned = true,
                                 .text = false,
                                 .for_later = !flags->out.empty(),
                                 .sequences = flags->parallel});
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

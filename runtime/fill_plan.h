// What of a plan is no choice: what follows from the model and its sizes, and what each tier holds once it is chosen
// what lies where. The planner fills its plans so, and a plan read from a file is filled anew.
#pragma once

#include "runtime/plan.h"
#include "runtime/plan_sizes.h"
#include "runtime/planner.h"

namespace spillway {

// All but tiers of weights, slots and rings.
Plan sized_plan(const PlanInput& input, const PlanSizes& sizes);
// Fills in what each tier holds, and of which budget, from those.
void count_tiers(Plan& plan, const PlanInput& input, const PlanSizes& sizes);
bool within_budgets(const Plan& plan);

}  // namespace spillway

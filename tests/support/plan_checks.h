// What any plan must keep, whatever the model and the budgets: its units hold every weight once, its KV has a place for
// every row, its tiers are inside their budgets.
#pragma once

#include "loader/checkpoint.h"
#include "loader/model_spec.h"
#include "runtime/options.h"
#include "runtime/plan.h"

namespace spillway {

// Every row of every matrix is in exactly one unit, and what each unit reads from the file holds its rows.
void check_units(const ModelSpec& spec, const Checkpoint& checkpoint, const Plan& plan);
void check_kv(const ModelSpec& spec, const Options& options, const Plan& plan);
void check_tiers(const Options& options, const Plan& plan);

}  // namespace spillway

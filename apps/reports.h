// Plans and results as JSON under the interface's stable names.
#pragma once

#include <nlohmann/json.hpp>

#include "runtime/generate.h"
#include "runtime/plan.h"

namespace spillway {

nlohmann::json plan_json(const Plan& plan);
nlohmann::json generation_json(const Generation& generation, const Metrics& metrics, const Plan& plan);

}  // namespace spillway

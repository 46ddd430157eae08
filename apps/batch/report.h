// What a batch says at its end.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/batch.h"
#include "runtime/metrics.h"
#include "runtime/plan.h"

namespace spillway {

// Lines of the input, of one shard of it.
struct BatchCounts {
  uint64_t requests = 0;
  uint64_t before = 0;    // answered by earlier runs
  uint64_t answered = 0;  // by all runs, errors among them
  uint64_t errors = 0;
};

// "500 of 500 requests are answered, 3 of them with an error; ...": what was done, and at which speed.
std::string batch_line(const BatchCounts& counts, const BatchReport& report);
// What --stats says beside: passes, the bound, what was waited for, bytes by link and cause with their share of the
// link's speed over the whole job. Lines ended.
std::string batch_stats_text(const BatchReport& report, const Plan& plan, const Metrics& metrics,
                             const LinkPeaks& peaks);
nlohmann::json batch_json(const BatchCounts& counts, const BatchReport& report, const Metrics& metrics);

}  // namespace spillway

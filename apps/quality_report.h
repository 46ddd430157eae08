// The table of `spillway quality`, as text and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/plan.h"
#include "runtime/quality.h"

namespace spillway {

// Keys hidden at one depth of the context.
struct PasskeyScore {
  int depth = 0;  // percent of the context before it
  int answered = 0;
  int asked = 0;
};

struct PolicyQuality {
  std::string policy;  // its flags; empty: the full cache in half precision
  QualityTally all;
  std::vector<QualityTally> windows;
  PhaseCost decode;
  ChosenCounts chosen;
  uint64_t kv_kept = 0;  // bytes of a window's pages at its end, in any tier
  MissedMass missed;     // no heads: nothing is missed, for all is read
  std::vector<PasskeyScore> passkeys;
  Plan plan;
};

struct QualityReport {
  std::string model, text;
  int window = 0, steps = 0;
  std::vector<PolicyQuality> policies;  // the full cache first
};

// A key that the full cache itself does not answer says nothing of a policy.
bool passkey_counts(const QualityReport& report, size_t depth);

std::string quality_text(const QualityReport& report);
nlohmann::json quality_json(const QualityReport& report);

}  // namespace spillway

// Metrics: what a run took and moved, as text for --stats and as JSON under stable names. Values and pure functions
// only.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "kernels/wait_clock.h"
#include "memory/tier.h"
#include "prefetch/chosen_feed.h"
#include "prefetch/expert_feed.h"
#include "runtime/rehearsal.h"
#include "runtime/timings.h"

namespace spillway {

// Bytes by link and cause: a snapshot of Traffic that can be subtracted.
struct LinkBytes {
  std::array<std::array<uint64_t, kCauses>, kLinks> cells{};

  static LinkBytes of(const Traffic& traffic);
  uint64_t of(Link link) const;
  uint64_t of(Link link, Cause cause) const { return cells[static_cast<size_t>(link)][static_cast<size_t>(cause)]; }
  LinkBytes& operator+=(const LinkBytes& other);
  // What was moved since `earlier`.
  LinkBytes since(const LinkBytes& earlier) const;
};

// Measured (or, where emulated, imposed) speed of each link in bytes a second; 0: not known.
struct LinkPeaks {
  std::array<double, kLinks> bytes_per_second{};
  std::array<bool, kLinks> emulated{};
};

// Seconds in which compute stood still for bytes on their way, by link (of several the drive's, see arrival_of) and
// cause: a snapshot of a WaitClock that can be subtracted.
struct WaitSeconds {
  bool measured = false;  // whether the device told
  std::array<std::array<double, kCauses>, kLinks> cells{};

  static WaitSeconds of(const WaitClock* clock);  // null: not measured
  double of(Link link, Cause cause) const { return cells[static_cast<size_t>(link)][static_cast<size_t>(cause)]; }
  double total() const;
  WaitSeconds& operator+=(const WaitSeconds& other);
  WaitSeconds since(const WaitSeconds& earlier) const;
};

// What a phase took, over all its runs.
struct PhaseCost {
  int64_t tokens = 0;
  double seconds = 0;
  LinkBytes bytes;
  WaitSeconds waits = {};

  PhaseCost& operator+=(const PhaseCost& other);
};

struct Metrics {
  Timings timings;
  int64_t prompt_tokens = 0;
  int64_t decode_steps = 0;
  LinkBytes load, prefill, decode;
  WaitSeconds waits;  // in prefill and decode
  // Of a mixture of experts that has not all of them on the device; else nothing was asked for.
  ExpertCounts prefill_experts, decode_experts;
  ChosenCounts chosen;  // of decode steps that read chosen KV alone; else zero
  MissedMass missed;
  std::array<uint64_t, kTiers> peak{};    // bytes in use at most, by tier
  std::array<uint64_t, kTiers> budget{};  // 0: none was given
  uint64_t process_peak = 0;              // largest resident set of the process; 0: not known
};

// {"timings": {...}, "bytes": {link: {cause: n}}, "peak": {tier: bytes}}: names of the interface, all present, zeros
// too; {"experts": {phase: {"asked", "on_device", "on_host"}}}; {"selection": {"tokens_read", "tokens_seen",
// "granules", "in_place", "hits", "fetched", "missed_mass": null where it was not looked at}}, summed over steps,
// layers that choose and KV heads; {"waited_s": {"compute": {link: {cause: seconds}}}}, null where it was not measured.
nlohmann::json metrics_json(const Metrics& metrics);
// "0.61 s (29%) for bytes on their way: weights from disk 0.60 s, kv_fetch from host 0.01 s", the longest first; the
// share is of `seconds`.
std::string waits_text(const WaitSeconds& waits, double seconds);
nlohmann::json chosen_json(const ChosenCounts& chosen);
// The --stats block, lines ended. Links that moved nothing are left out; speeds are those of decoding, or of the
// prefill where nothing was decoded, each with its share of the link's peak.
std::string metrics_text(const Metrics& metrics, const LinkPeaks& peaks);

}  // namespace spillway

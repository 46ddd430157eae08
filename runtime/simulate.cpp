#include "runtime/simulate.h"

#include <algorithm>

#include "kernels/check.h"

namespace spillway {

Simulation simulate(std::span<const Fetch> fetches, std::span<const double> fetch_seconds,
                    std::span<const double> step_seconds, std::span<const double> latency_seconds) {
  SPILLWAY_CHECK(fetches.size() == step_seconds.size() && fetches.size() == fetch_seconds.size());
  SPILLWAY_CHECK(latency_seconds.empty() || latency_seconds.size() == fetches.size());
  Simulation sim;
  sim.fetches.reserve(fetches.size());
  sim.step_begin.reserve(fetches.size());
  sim.step_end.reserve(fetches.size());
  double link_free = 0, compute_free = 0;
  for (size_t i = 0; i < fetches.size(); ++i) {
    const Fetch& fetch = fetches[i];
    SPILLWAY_CHECK(fetch.step == static_cast<int64_t>(i) && fetch.after <= fetch.issue && fetch.issue < fetch.step);
    double asked = 0;
    if (fetch.after != kNoStep) asked = std::max(asked, sim.step_end[fetch.after]);
    if (fetch.issue != kNoStep) asked = std::max(asked, sim.step_begin[fetch.issue]);
    const double latency = latency_seconds.empty() ? 0 : latency_seconds[i];
    const double begin = std::max(link_free, asked + latency);
    link_free = begin + fetch_seconds[i];
    sim.link_busy += link_free - begin;
    sim.fetches.push_back({begin, link_free});

    const double step_begin = std::max(compute_free, link_free);
    sim.compute_wait += step_begin - compute_free;
    compute_free = step_begin + step_seconds[i];
    sim.step_begin.push_back(step_begin);
    sim.step_end.push_back(compute_free);
  }
  sim.seconds = compute_free;
  return sim;
}

}  // namespace spillway

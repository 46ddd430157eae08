// What a run plans of what it was asked for: how long a context, how many at once, and what else would fit.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <functional>

#include "apps/running.h"
#include "runtime/process_memory.h"

namespace spillway {
namespace {

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

// What is planned; nothing where it does not fit.
std::optional<Plan> if_any(const std::function<Plan()>& planned) {
  try {
    return planned();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::fit) throw;
    return std::nullopt;
  }
}

// By halving the distance between a context that `plan_of` has a plan of, and one that it refuses.
Plan longest(Plan fits, int refused, const std::function<std::optional<Plan>(int context)>& plan_of) {
  while (refused - fits.context > kPageTokens) {
    const int middle = fits.context + (refused - fits.context) / 2;
    if (std::optional<Plan> plan = plan_of(middle)) {
      fits = std::move(*plan);
    } else {
      refused = middle;
    }
  }
  return fits;
}

}  // namespace

Plan Running::planned(int context, int chunk) const {
  Options options = options_;
  options.context = context;
  options.chunk = chunk;
  return plan_session(model_, options, device_, limits_);
}

std::optional<Plan> Running::if_it_fits(int context, int chunk) const {
  return if_any([&] { return planned(context, chunk); });
}

bool Running::share(const BatchWishes& wishes) {
  measure();
  count_process();
  use_kept_skew();
  const auto batch = plan_batch(options_, wishes, [&](Options options) {
    return if_any([&] { return plan_session(model_, options, device_, limits_); });
  });
  if (!batch) return false;
  options_ = batch->options;
  return true;
}

std::string Running::why_not_recomputed(bool any_kernel) const {
  if (options_.selection.on()) return options_.selection.flag();
  if (packs(options_.kv_codec)) return fmt::format("--kv-type {}", info(options_.kv_codec).name);
  return any_kernel || device_.device->ops().few_rows() == 0 ? "" : "--deterministic on a GPU";
}

// Nothing where weights stream, or the CPU computes some beside the device. A later run's process may be larger.
std::optional<Plan> Running::if_weights_stay(int context) const {
  Options options = options_;
  options.context = context;
  options.process_room = kProcessVaries;
  std::optional<Plan> plan = if_any([&] { return plan_session(model_, options, device_, limits_); });
  if (plan && (plan->streams() || !plan->before.empty())) plan.reset();
  return plan;
}

// A context that nobody asked for takes all that weights can do without, and whoever needs less of it should know.
void Running::say_what_keeps_weights(const Plan& plan, int positions) const {
  if (!plan.streams()) return;
  std::optional<Plan> less = if_weights_stay(std::max(positions, 1));
  if (!less) return;
  less = longest(std::move(*less), plan.context, [&](int context) { return if_weights_stay(context); });
  say(
      fmt::format("context: {} positions leave no room for all weights, and part of them streams; with -c {} all stay "
                  "on the device",
                  plan.context, less->context));
}

// Empty where the chunk was asked for, or a smaller one would not help.
std::string Running::more_with_smaller_chunks(const Plan& plan, int most) const {
  constexpr int kSmaller = 64;
  if (flags_.given("--ub") || plan.chunk <= kSmaller || plan.context + kPageTokens >= most) return {};
  std::optional<Plan> more = if_it_fits(most, kSmaller);
  if (!more) {
    more = if_it_fits(plan.context + kPageTokens, kSmaller);
    if (!more) return {};
    more = longest(std::move(*more), most, [&](int context) { return if_it_fits(context, kSmaller); });
  }
  return fmt::format(" (with -ub {}: {})", kSmaller, more->context);
}

// A chunk reads streamed weights once: a larger one reads them less often in a long prompt, and takes room for its
// rows.
std::string Running::chunk_advice(const Plan& plan) const {
  constexpr double kWorthIt = 1.1;
  if (flags_.given("--ub") || given_ || !plan.streams() || plan.expected.bound.empty()) return {};
  std::string text;
  double best = plan.expected.prefill_tps;
  for (int chunk = 2 * plan.chunk; chunk <= std::min(plan.context, 4 * plan.chunk); chunk *= 2) {
    const std::optional<Plan> larger = if_it_fits(plan.context, chunk);
    if (!larger || larger->expected.prefill_tps < best * kWorthIt) continue;
    best = larger->expected.prefill_tps;
    text += fmt::format("with -ub {}: prefill {:.1f} tokens/s of prompts as long, decode {:.2f}\n", chunk, best,
                        larger->expected.decode_tps);
  }
  return text;
}

Plan Running::plan(int positions, bool at_least, bool quiet) {
  measure();
  count_process();
  use_kept_skew();
  if (given_) return given_plan(positions);
  const int chunk = options_.chunk;
  if (options_.context > 0) return planned(options_.context, chunk);
  if (!at_least) return planned(positions, chunk);
  // The largest context that fits, between what is needed and what the model was trained for.
  const int most = model_.spec.shape.context;
  if (positions > most) {
    throw Error(ErrorKind::usage,
                fmt::format("{} positions are needed, but the model knows {} (-c goes beyond them)", positions, most));
  }
  if (std::optional<Plan> all = if_it_fits(most, chunk)) {
    if (!quiet) say_what_keeps_weights(*all, positions);
    return std::move(*all);
  }
  Plan best =
      longest(planned(std::max(positions, 1), chunk), most, [&](int context) { return if_it_fits(context, chunk); });
  if (quiet) return best;
  say(fmt::format("context: {} positions are what the budgets allow{}; the model knows {}", best.context,
                  more_with_smaller_chunks(best, most), most));
  say_what_keeps_weights(best, positions);
  return best;
}

}  // namespace spillway

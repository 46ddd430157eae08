#include "runtime/batch_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "memory/kv/layout.h"

namespace spillway {
namespace {

// Fewer sequences take less memory and answer sooner: a little speed is no reason for more.
constexpr double kWorthIt = 1.05;
// Where the machine is not known: then most of what weights cost to bring, or to read, is shared out already.
constexpr int kUnmeasured = 32;

struct Tried {
  int sequences;
  BatchPlan batch;
  double tps() const { return batch.plan.expected.decode_tps; }
};

std::string reason_for(const std::vector<Tried>& tried, size_t best, bool refused) {
  const Tried& one = tried[best];
  std::string text = fmt::format("{} sequences in a pass: {:.1f} tokens/s", one.sequences, one.tps());
  if (best > 0) text += fmt::format(" where {} give {:.1f}", tried[best - 1].sequences, tried[best - 1].tps());
  if (best + 1 < tried.size()) {
    text += fmt::format(" and {} would give {:.1f}", tried[best + 1].sequences, tried[best + 1].tps());
  } else if (refused) {
    text += fmt::format(", and {} do not fit the budgets", 2 * one.sequences);
  }
  return text;
}

std::optional<BatchPlan> fastest(const Options& options, const BatchWishes& wishes, const MakePlan& make) {
  const auto of = [&](int sequences) -> std::optional<BatchPlan> {
    Options all = batch_options(options, wishes, sequences);
    std::optional<Plan> plan = make(all);
    if (!plan) return std::nullopt;
    return BatchPlan{std::move(all), std::move(*plan)};
  };
  if (wishes.sequences > 0) return of(wishes.sequences);
  std::vector<Tried> tried;
  bool refused = false;
  for (int sequences = 1; sequences <= BatchWishes::kMostSequences && !refused; sequences *= 2) {
    std::optional<BatchPlan> one = of(sequences);
    refused = !one;
    if (one) tried.push_back({sequences, std::move(*one)});
    if (sequences >= kUnmeasured && !tried.empty() && tried.back().batch.plan.expected.bound.empty()) break;
  }
  if (tried.empty()) return std::nullopt;
  if (tried.front().batch.plan.expected.bound.empty()) return std::move(tried.back().batch);
  size_t best = 0;
  for (size_t i = 1; i < tried.size(); ++i) {
    if (tried[i].tps() > tried[best].tps() * kWorthIt) best = i;
  }
  tried[best].batch.plan.reasons.push_back(reason_for(tried, best, refused));
  return std::move(tried[best].batch);
}

// Requests that take more than the mean are put back for want of pages (BatchSchedule): what costs no speed may spare
// them that.
BatchPlan with_spare_room(BatchPlan batch, const Options& options, BatchWishes wishes, const MakePlan& make) {
  const auto stays = [](const Plan& plan) { return !plan.streams() && !plan.spills_kv() && plan.before.empty(); };
  const int mean = wishes.mean_positions;
  for (int more = wishes.roomy_positions - mean; more >= kPageTokens && stays(batch.plan); more /= 2) {
    wishes.mean_positions = mean + more;
    Options roomy = batch_options(options, wishes, batch.options.batch);
    std::optional<Plan> plan = make(roomy);
    if (!plan || !stays(*plan)) continue;
    plan->reasons = std::move(batch.plan.reasons);
    return {std::move(roomy), std::move(*plan)};
  }
  return batch;
}

}  // namespace

Options batch_options(const Options& options, const BatchWishes& wishes, int sequences) {
  Options all = options;
  all.batch = all.sequences = sequences;
  all.logit_rows = std::max(options.logit_rows, sequences);
  all.positions = wishes.positions;
  const int64_t mean = wishes.mean_positions > 0 ? std::min(wishes.mean_positions, wishes.positions) : wishes.positions;
  // In whole pages, as they are given out.
  const int64_t context = std::max<int64_t>(wishes.positions, int64_t{kPageTokens} * page_rows(mean) * sequences);
  all.context = static_cast<int>(std::min<int64_t>(context, int64_t{1} << 30));
  return all;
}

std::optional<BatchPlan> plan_batch(const Options& options, const BatchWishes& wishes, const MakePlan& make) {
  std::optional<BatchPlan> batch = fastest(options, wishes, make);
  if (batch) batch = with_spare_room(std::move(*batch), options, wishes, make);
  return batch;
}

}  // namespace spillway

// What any plan must keep, over random models and budgets: what fits is planned inside every budget and holds all there
// is; what does not fit is refused with a nearest fit that fits, and below which nothing does.
#include "runtime/planner.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <regex>

#include "kernels/backend.h"
#include "memory/kv/layout.h"
#include "runtime/predict.h"
#include "runtime/process_memory.h"
#include "runtime/workspace.h"
#include "tests/support/plan_checks.h"
#include "tests/support/spec_model.h"

namespace spillway {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr int kCases = 2000;
const Limits kMeasured{.disk_read = 1e9, .link = 10e9, .weight_bytes = 10e9, .prefill_flops = 100e9};

// Everything a plan says, in words: two plans are the same when these are.
std::string facts(const Plan& plan) {
  std::string text = fmt::format("{} {} {} {} {} {} |", plan.context, plan.chunk, plan.logit_rows, plan.lookahead,
                                 plan.emulated_link, plan.staged);
  for (const TierPlan& tier : plan.tiers) {
    text += fmt::format(" {} {} {} {} {} {} |", tier.budget, tier.weights, tier.kv, tier.workspace, tier.rings,
                        tier.process);
  }
  for (size_t i = 0; i < plan.units.size(); ++i) {
    text += fmt::format(" {}:{}", plan.units[i].bytes, static_cast<int>(plan.unit_tiers[i]));
  }
  text += fmt::format(" | {} {} {} {} {}", plan.weight_ring_bytes, plan.small_bytes, plan.kv_device_rows_per_layer,
                      plan.kv_ring_bytes, plan.staging.bytes());
  for (const KvSlots& slots : {plan.kv_device_slots, plan.kv_host_slots, plan.kv_disk_slots}) {
    text += fmt::format(" {}+{}", slots.full, slots.packed);
  }
  return text + fmt::format(" | {} {} {}", plan.expected.decode_tps, plan.expected.prefill_tps, plan.expected.bound);
}

// The numbers of a refusal.
struct Refusal {
  std::string message;
  std::optional<uint64_t> device_mib, host_mib, disk_mib, context, chunk, more_host_mib;

  explicit Refusal(const std::string& text) : message(text) {
    const size_t nearest = text.find("nearest fit:");
    if (nearest == std::string::npos) return;
    const std::string fits = text.substr(nearest);
    const auto number = [&](const char* pattern) -> std::optional<uint64_t> {
      std::smatch match;
      if (!std::regex_search(fits, match, std::regex(pattern))) return std::nullopt;
      return std::stoull(match[1]);
    };
    device_mib = number("--device-mem ([0-9]+)MiB");
    host_mib = number("(?:fit:|MiB) --host-mem ([0-9]+)MiB");
    more_host_mib = number("or --host-mem ([0-9]+)MiB");
    chunk = number("or -ub ([0-9]+)");
    disk_mib = number("or --disk-mem ([0-9]+)MiB");
    context = number("or -c ([0-9]+)");
  }
};

class PlannerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::path(::testing::TempDir()) / "planner_test.holes").string();
    near_ = make_cpu_device({.threads = 2});
    far_ = std::make_unique<FarDevice>(*near_);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  struct Case {
    SpecModel model;
    Options options;
    bool far = false;
    uint64_t process_bytes = 0;
    Limits limits = {};
  };

  // What a process may have more than when a budget was offered.
  static uint64_t growth(const Case& c) { return c.process_bytes > 0 ? kProcessVaries : 0; }

  PlanInput input(const Case& c, const Options& options, uint64_t more = 0) const {
    return {.options = options,
            .spec = c.model.spec,
            .checkpoint = c.model.checkpoint,
            .device = c.far ? static_cast<const Device&>(*far_) : *near_,
            .ops = near_->ops(),
            .limits = c.limits,
            .process_bytes = c.process_bytes + more};
  }

  // A plan, or the refusal.
  std::optional<Plan> plan(const Case& c, const Options& options, std::optional<Refusal>* refusal = nullptr,
                           uint64_t more = 0) const {
    try {
      return make_plan(input(c, options, more));
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::fit) << error.what();
      if (refusal != nullptr) refusal->emplace(error.what());
      return std::nullopt;
    }
  }

  // Whether what is offered holds for a process that has grown, but for no larger one.
  bool fits_grown(const Case& c, const Options& options) const {
    return plan(c, options, nullptr, growth(c)).has_value();
  }

  Case random_case(std::mt19937_64& random) const {
    const auto upto = [&](uint64_t n) { return random() % n; };
    Case c{.model = SpecModel(random_shape(random), path_), .options = {}, .far = upto(4) == 0};
    Options& o = c.options;
    o.context = upto(8) == 0 ? static_cast<int>(upto(2'000'000)) : static_cast<int>(upto(1 + upto(40'000)));
    o.chunk = 1 + static_cast<int>(upto(1 + upto(2048)));
    o.logit_rows = upto(3) == 0 ? 64 : 1;
    o.lookahead = static_cast<int>(upto(4));
    if (upto(2) == 0) c.limits = kMeasured;  // else nothing to choose by
    if (upto(4) == 0) o.sequences = 1 + static_cast<int>(upto(6));
    if (o.sequences > 1 && upto(2) == 0) o.batch = o.sequences;
    if (upto(4) == 0) o.unit_bytes = 1 + upto(kMiB);
    if (upto(3) == 0) o.kv_codec = kAllKvCodecs[upto(std::size(kAllKvCodecs))];
    o.kv_edge_layers = static_cast<int>(upto(4));
    if (upto(4) == 0 && o.kv_codec != KvCodec::f32) {
      o.selection.selector = kKvSelectors[upto(std::size(kKvSelectors))];
      o.selection.share = 0.01 * static_cast<double>(1 + upto(60));
      o.selection.hot_slots = 1 + static_cast<double>(upto(5)) / 2;
    }
    if (upto(2) == 0) c.process_bytes = upto(64 * kMiB);
    const uint64_t all = c.model.weight_bytes() + c.model.kv_bytes(o.context) + 64 * kMiB;
    // A share of all there is, small ones often.
    const auto share = [&](uint64_t of) { return upto(1 + (upto(3) == 0 ? of : upto(of + of / 2))); };
    o.device_bytes = upto(5) == 0 ? upto(32 * kMiB) : share(all);
    if (upto(c.far ? 10 : 2) != 0) o.host_bytes = upto(4) == 0 ? upto(16 * kMiB) : share(all);
    if (upto(2) == 0) o.disk_bytes = share(c.model.kv_bytes(o.context) + kMiB);
    if (!c.far && o.host_bytes && upto(2) == 0) o.link_bytes_per_second = 1e9;
    return c;
  }

  void check_plan(const Case& c, const Options& options, const Plan& plan) const;
  void check_refusal(const Case& c, const Refusal& refusal);
  void check_other_fits(const Case& c, const Refusal& refusal) const;
  void count(const Case& c, const Plan& plan);

  std::string path_;
  std::unique_ptr<Device> near_;
  std::unique_ptr<Device> far_;
  std::map<std::string, int> counts_;
};

void PlannerTest::check_plan(const Case& c, const Options& options, const Plan& plan) const {
  check_units(c.model.spec, c.model.checkpoint, plan);
  check_kv(c.model.spec, options, plan);
  check_tiers(options, plan);
  ASSERT_EQ(plan.tier(c.far ? Tier::host : Tier::device).process, c.process_bytes + plan.selection.lookup);
  ASSERT_GE(plan.chunk, 1);
  ASSERT_EQ(plan.chunk, std::min(options.chunk, plan.context)) << "chunks do not derive from budgets";
  ASSERT_GE(plan.logit_rows, 1);
  ASSERT_LE(plan.logit_rows, options.logit_rows);
  ASSERT_EQ(plan.staged, c.far || options.host_bytes.has_value());
  Workspace views;
  const uint64_t workspace = Workspace::cut(c.model.spec, {plan.chunk, plan.logit_rows, plan.context, plan.batch},
                                            near_->ops(), nullptr, &views);
  ASSERT_GE(plan.workspace_bytes, workspace);
  ASSERT_GE(plan.host_input_bytes, 2 * views.host_half_bytes());
}

void PlannerTest::check_refusal(const Case& c, const Refusal& refusal) {
  SCOPED_TRACE(refusal.message);
  const Options& o = c.options;
  ASSERT_TRUE(refusal.device_mib || refusal.host_mib) << "no nearest fit";
  ASSERT_EQ(refusal.device_mib.has_value(), refusal.message.find("--device-mem is") != std::string::npos);
  ASSERT_EQ(refusal.host_mib.has_value(), refusal.message.find("--host-mem is") != std::string::npos);
  ASSERT_THAT(refusal.message, ::testing::HasSubstr("but at least"));
  if (refusal.device_mib) {
    ASSERT_THAT(refusal.message, ::testing::HasSubstr(fmt::format("({} bytes)", *o.device_bytes)));
  }
  if (refusal.host_mib) {
    ASSERT_THAT(refusal.message, ::testing::HasSubstr(fmt::format("({} bytes)", o.host_bytes.value_or(0))));
  }
  const auto expect = [&](const char* what, const Options& options) {
    const std::optional<Plan> found = plan(c, options);
    ASSERT_TRUE(found) << what;
    check_plan(c, options, *found);
  };
  const auto expect_grown = [&](const char* what, const Options& options) {
    expect(what, options);
    ASSERT_TRUE(fits_grown(c, options)) << what << ", of a larger process";
  };
  const auto refuse = [&](const char* what, const Options& options) { ASSERT_FALSE(fits_grown(c, options)) << what; };
  Options nearest = o;
  if (refusal.device_mib) nearest.device_bytes = *refusal.device_mib * kMiB;
  if (refusal.host_mib) nearest.host_bytes = *refusal.host_mib * kMiB;
  // Of a budget that was not short nothing is said, however near the process is to it.
  const bool of_process = (c.far ? refusal.host_mib : refusal.device_mib).has_value();
  of_process ? expect_grown("the nearest fit", nearest) : expect("the nearest fit", nearest);
  Options less = nearest;
  if (refusal.device_mib) {
    less.device_bytes = *less.device_bytes - kMiB;
    refuse("a MiB less of the device", less);
  }
  less = nearest;
  if (refusal.host_mib) {
    less.host_bytes = *less.host_bytes - kMiB;
    refuse("a MiB less of the host", less);
  }
  less = o;
  if (refusal.context) {
    less.context = static_cast<int>(*refusal.context);
    expect_grown("the shorter context", less);
    less.context += 1;
    refuse("one position more", less);
  } else {
    less.context = 1;
    refuse("one position", less);
  }
  less = o;
  if (refusal.disk_mib) {
    less.disk_bytes = *refusal.disk_mib * kMiB;
    expect_grown("the disk budget", less);
    less.disk_bytes -= kMiB;
    if (less.disk_bytes >= o.disk_bytes) refuse("a MiB less of the disk", less);
  } else {
    less.disk_bytes = 1ull << 50;
    refuse("any disk budget", less);
  }
  check_other_fits(c, refusal);
  counts_["refused"] += 1;
  counts_["refused: device"] += refusal.device_mib && !refusal.host_mib;
  counts_["refused: host"] += !refusal.device_mib && refusal.host_mib;
  counts_["refused: device and host"] += refusal.device_mib && refusal.host_mib;
  counts_["refused: a shorter context would fit"] += refusal.context.has_value();
  counts_["refused: a smaller chunk would fit"] += refusal.chunk.has_value();
  counts_["refused: a larger host budget alone would fit"] += refusal.more_host_mib.has_value();
  counts_["refused: a disk budget would fit"] += refusal.disk_mib.has_value();
}

// Of the chunk and of the host's budget, each alone.
void PlannerTest::check_other_fits(const Case& c, const Refusal& refusal) const {
  const Options& o = c.options;
  Options other = o;
  const int chunk = std::min(o.chunk, static_cast<int>(align_up(std::max(o.context, 1), kPageTokens)));
  if (refusal.chunk) {
    other.chunk = static_cast<int>(*refusal.chunk);
    ASSERT_LT(other.chunk, chunk);
    const std::optional<Plan> found = plan(c, other);
    ASSERT_TRUE(found) << "the smaller chunk";
    check_plan(c, other, *found);
    other.chunk += other.chunk < 16 ? 1 : 16;
    if (other.chunk < chunk) {
      ASSERT_FALSE(fits_grown(c, other)) << "a larger chunk";
    }
  } else {
    other.chunk = 1;
    ASSERT_FALSE(fits_grown(c, other)) << "any chunk";
  }
  other = o;
  if (refusal.more_host_mib) {
    ASSERT_TRUE(o.host_bytes && !refusal.host_mib);
    other.host_bytes = *refusal.more_host_mib * kMiB;
    const std::optional<Plan> found = plan(c, other);
    ASSERT_TRUE(found) << "the larger host budget";
    check_plan(c, other, *found);
    other.host_bytes = *other.host_bytes - kMiB;
    if (*other.host_bytes >= *o.host_bytes) {
      ASSERT_FALSE(fits_grown(c, other)) << "a MiB less of the host alone";
    }
  } else if (o.host_bytes && !refusal.host_mib) {
    other.host_bytes = 1ull << 50;
    ASSERT_FALSE(fits_grown(c, other)) << "any host budget";
  }
}

void PlannerTest::count(const Case& c, const Plan& plan) {
  bool from_host = false, from_disk = false;
  for (size_t i = 0; i < plan.units.size(); ++i) {
    from_host |= plan.unit_tiers[i] == Tier::host;
    from_disk |= plan.unit_tiers[i] == Tier::disk;
  }
  counts_["planned"] += 1;
  counts_["planned: all on the device"] += !plan.streams_weights() && !plan.spills_kv();
  counts_["planned: weights from disk"] += from_disk;
  counts_["planned: weights from host"] += from_host;
  counts_["planned: weights from host and disk"] += from_host && from_disk;
  const bool kv_on_host = plan.kv_host_slots.rows() > 0, kv_on_disk = plan.kv_disk_slots.rows() > 0;
  counts_["planned: KV on host"] += kv_on_host;
  counts_["planned: KV on disk"] += kv_on_disk;
  counts_["planned: KV in three tiers"] += kv_on_host && kv_on_disk;
  counts_["planned: packed KV spills"] += plan.kv_layout.packed_layers() > 0 && plan.spills_kv();
  counts_["planned: weights stream and KV spills"] += plan.streams_weights() && plan.spills_kv();
  counts_["planned: a device out of the host's reach"] += c.far;
  counts_["planned: an emulated link"] += plan.emulated_link;
  counts_["planned: KV is chosen"] += plan.selection.on();
  counts_["planned: chosen KV spills"] += plan.selection.hot_slots > 0;
  counts_["planned: several sequences"] += c.options.sequences > 1;
  counts_["planned: several sequences in a pass"] += c.options.batch > 1;
  counts_["planned: spilled KV of several sequences"] += c.options.sequences > 1 && plan.spills_kv();
  counts_["planned: fewer rows of logits than asked for"] +=
      plan.logit_rows < std::min(c.options.logit_rows, plan.chunk);
}

TEST_F(PlannerTest, FitsOrNamesTheNearestFit) {
  std::mt19937_64 random(21);
  for (int i = 0; i < kCases; ++i) {
    const Case c = random_case(random);
    SCOPED_TRACE(fmt::format("case {}: -c {} -ub {} --device-mem {} --host-mem {} --disk-mem {}, {} layers, process {}",
                             i, c.options.context, c.options.chunk, *c.options.device_bytes,
                             c.options.host_bytes.value_or(0), c.options.disk_bytes, c.model.spec.shape.layers,
                             c.process_bytes));
    std::optional<Refusal> refusal;
    const std::optional<Plan> found = plan(c, c.options, &refusal);
    if (found) {
      check_plan(c, c.options, *found);
      EXPECT_EQ(facts(*found), facts(*plan(c, c.options))) << "the same input gives the same plan";
      count(c, *found);
    } else {
      check_refusal(c, *refusal);
    }
    if (HasFailure()) return;
  }
  std::printf("%d cases\n", kCases);
  for (const auto& [what, number] : counts_) std::printf("  %5d  %s\n", number, what.c_str());
  for (const auto& [what, number] : counts_) EXPECT_GE(number, kCases / 200) << what;
}

TEST_F(PlannerTest, KvKeepsToItsPartOfTheDevice) {
  std::mt19937_64 random(22);
  int kept = 0, refused = 0;
  for (int i = 0; i < kCases / 4; ++i) {
    Case c = random_case(random);
    c.options.device_layers.reset();
    const std::optional<Plan> whole = plan(c, c.options);
    if (!whole || whole->first_layer > 0) continue;
    SCOPED_TRACE(fmt::format("case {}", i));
    const uint64_t cap = whole->kv_on_device() * (random() % 110) / 100;
    c.options.kv_device_bytes = cap;
    try {
      const Plan found = make_plan(input(c, c.options));
      EXPECT_LE(found.kv_on_device(), cap);
      kept += cap < whole->kv_on_device();
    } catch (const Error& error) {
      std::smatch match;
      const std::string said = error.what();
      ASSERT_TRUE(std::regex_search(said, match, std::regex("nearest fit: --kv-device-mem ([0-9]+)MiB"))) << said;
      const uint64_t fit = std::stoull(match[1]);
      c.options.kv_device_bytes = fit * kMiB;
      EXPECT_TRUE(plan(c, c.options).has_value()) << said;
      c.options.kv_device_bytes = (fit - 1) * kMiB;
      EXPECT_FALSE(plan(c, c.options).has_value()) << said;
      ++refused;
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(kept, 5);
  EXPECT_GT(refused, 5);
}

// A hot set is the wish's, or smaller where that does not fit or other KV is worth more; it never decides what fits.
TEST_F(PlannerTest, TheHotSetIsWhatFits) {
  Case c{.model = SpecModel({.layers = 8}, path_), .options = {}};
  Options& o = c.options;
  o.context = 32768;
  o.selection.selector = KvSelector::rehearsal;
  o.device_bytes = o.host_bytes = uint64_t{1} << 33;
  const auto spilled = [&](uint64_t cap, double wish, const Limits& limits) {
    o.kv_device_bytes = cap;
    o.selection.hot_slots = wish;
    c.limits = limits;
    return plan(c, o);
  };
  o.selection.hot_slots = 2;
  const uint64_t all = plan(c, o)->kv_on_device();
  std::map<int, int> seen;  // plans by hot set, in tenths of what is chosen
  for (int percent = 95; percent > 0; --percent) {
    const uint64_t cap = all * static_cast<uint64_t>(percent) / 100;
    const std::optional<Plan> found = spilled(cap, 2, {}), measured = spilled(cap, 2, kMeasured);
    EXPECT_EQ(found.has_value(), spilled(cap, 1, {}).has_value()) << percent;
    ASSERT_EQ(found.has_value(), measured.has_value()) << percent;
    if (!found) continue;
    const int most = found->selection.most;
    for (const Plan* one : {&*found, &*measured}) {
      EXPECT_LE(one->kv_on_device(), cap);
      EXPECT_GE(one->selection.hot_slots, most);
      EXPECT_LE(one->selection.hot_slots, 2 * most);
    }
    // Where it was chosen by speed, it is no slower than where it was chosen by size alone.
    EXPECT_GE(1.03 * measured->expected.decode_tps, predict(*found, c.model.spec, kMeasured).decode_tps) << percent;
    ++seen[found->selection.hot_slots * 10 / most];
  }
  EXPECT_GT(seen[20], 0);
  EXPECT_GT(seen[10], 0);
  EXPECT_GE(seen.size(), 3u);
}

// The plans of one run count with one process, so that what fitted the first is not refused to the second.
TEST(ProcessToPlan, IsTheFirstUntilItHasGrownByMoreThanItVaries) {
  EXPECT_EQ(process_to_plan(0, 30 * kMiB), 30 * kMiB);
  for (const uint64_t resident : {29 * kMiB, 30 * kMiB, 30 * kMiB + kProcessVaries}) {
    EXPECT_EQ(process_to_plan(30 * kMiB, resident), 30 * kMiB);
  }
  const uint64_t grown = 30 * kMiB + kProcessVaries + 1;
  EXPECT_EQ(process_to_plan(30 * kMiB, grown), grown);
}

TEST_F(PlannerTest, MorePositionsThanCanBeCountedAreAMatterOfTheFlag) {
  Case c{.model = SpecModel({.layers = 1000}, path_), .options = {}};
  c.options.device_bytes = uint64_t{1} << 60;
  for (const int context : {INT32_MAX, 1 << 30, 300'000'000}) {
    c.options.context = context;
    try {
      make_plan(input(c, c.options));
      FAIL() << context;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage);
      EXPECT_THAT(error.what(), ::testing::HasSubstr(fmt::format("-c {}", context)));
    }
  }
  c.options.context = 274'877'000;  // the last that 2^32 page rows hold
  EXPECT_EQ(make_plan(input(c, c.options)).kv_device_slots.full, 1000u * page_rows(c.options.context));
}

}  // namespace
}  // namespace spillway

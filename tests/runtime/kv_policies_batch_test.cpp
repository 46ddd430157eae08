// Sequences whose decode steps choose among their KV: in passes that they share, or in turns, each answers as it does
// alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "tests/runtime/kv_policies.h"
#include "tests/support/gpu_under_test.h"

namespace spillway {
namespace {

// Prompts that share passes add up their own, wherever their pages are; each then decodes as it does alone.
TEST_F(KvPolicies, PromptsThatSharePassesAddUpTheirOwn) {
  constexpr int kChunk = 32;  // of each
  const std::vector<std::vector<int32_t>> prompts = {prompt_, random_ids(3, kPrompt, kVocab)};
  Options wanted = options(policy(KvRetention::heavy));
  std::vector<std::vector<float>> alone;
  for (const auto& prompt : prompts) {
    Options one = wanted;
    one.chunk = kChunk;
    Engine on = engine(one);
    const SequenceId sequence = on.open_sequence();
    on.prefill(sequence, prompt, 0, true, [](int, std::span<const float>) {});
    alone.push_back(decode(on, sequence, decoded_));
  }
  wanted.sequences = wanted.batch = 2;
  wanted.context *= 2;
  for (const bool tightly : {false, true}) {
    Engine on = engine(tightly ? tight(wanted, false) : wanted);
    const SequenceId ids[] = {on.open_sequence(), on.open_sequence()};
    for (int begin = 0; begin < kPrompt; begin += kChunk) {
      PassPart parts[2];
      for (size_t i = 0; i < 2; ++i) {
        parts[i] = {.sequence = ids[i],
                    .tokens = std::span(prompts[i]).subspan(begin, std::min(kChunk, kPrompt - begin)),
                    .decode = false,
                    .logit_rows = 1};
      }
      on.step({.parts = parts}, [](std::span<const Engine::PartRow>) {});
    }
    EXPECT_TRUE(on.decodes_apart(kPrompt + 1));
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(decode(on, ids[i], decoded_), alone[i]) << tightly << ", " << i;
  }
}

// Each chooses among its own KV and reads its own, whatever the others of its pass do: with everything on the device,
// or room there for what one of them chooses, half of them, or all.
class ChoosingTogether : public KvPolicies {
 protected:
  ChoosingTogether() { take(4, kPrompt, 8); }

  void take(int sequences, int longest, int steps) {
    prompts_.clear();
    for (int i = 0; i < sequences; ++i) prompts_.push_back(random_ids(20 + i, longest - 50 * i, kVocab));
    steps_ = steps;
  }
  int sequences() const { return static_cast<int>(prompts_.size()); }

  static SequenceId read(Engine& on, const std::vector<int32_t>& prompt) {
    const SequenceId sequence = on.open_sequence();
    on.prefill(sequence, prompt, 0, true, [](int, std::span<const float>) {});
    return sequence;
  }

  // Of each sequence the rows of its steps, as many steps in a pass as the engine lets choose together.
  std::vector<std::vector<float>> decode_together(Engine& on) const {
    const int most = on.most_apart();
    std::vector<SequenceId> ids;
    for (const auto& prompt : prompts_) ids.push_back(read(on, prompt));
    std::vector<std::vector<float>> rows(prompts_.size());
    for (int step = 0; step < steps_; ++step) {
      for (int first = 0; first < sequences(); first += most) {
        std::vector<PassPart> parts;
        for (int i = first; i < std::min(first + most, sequences()); ++i) {
          EXPECT_TRUE(on.decodes_apart(static_cast<int>(prompts_[static_cast<size_t>(i)].size()) + step + 1));
          parts.push_back({.sequence = ids[static_cast<size_t>(i)],
                           .tokens = std::span(decoded_).subspan(static_cast<size_t>(step), 1),
                           .decode = true,
                           .logit_rows = 1});
        }
        const bool again = most >= sequences() && step + 1 < steps_;
        const NextPass next{.logit_rows = again ? sequences() : NextPass::kNone,
                            .decodes = true,
                            .sequences = std::span(ids).first(again ? ids.size() : 0)};
        on.step({.parts = parts, .next = next}, [&](std::span<const Engine::PartRow> some) {
          for (const auto& row : some) {
            auto& to = rows[static_cast<size_t>(first) + row.part];
            to.insert(to.end(), row.logits.begin(), row.logits.end());
          }
        });
      }
    }
    return rows;
  }

  void check(const KvSelection& selection, KvCodec codec, Device& device, const std::vector<int>& rooms) {
    SCOPED_TRACE(name_of(selection, codec) + " on " + device.name());
    Options wanted = options(selection, codec);
    wanted.host_bytes = kPlenty;
    std::vector<std::vector<float>> alone;
    for (const auto& prompt : prompts_) {
      Engine on = raised_engine(model_, wanted, device);
      alone.push_back(decode(on, read(on, prompt), std::span(decoded_).first(static_cast<size_t>(steps_))));
    }
    wanted.sequences = wanted.batch = sequences();
    wanted.positions = wanted.context;
    wanted.context *= sequences();
    {
      Engine on = raised_engine(model_, wanted, device);
      EXPECT_EQ(on.most_apart(), sequences());
      EXPECT_EQ(decode_together(on), alone) << "all on the device";
    }
    Options little = tight(wanted, codec == KvCodec::kivi4);
    for (const int at_once : rooms) {
      while (raised_engine(model_, little, device).most_apart() < at_once) *little.device_bytes += 64 << 10;
      Engine on = raised_engine(model_, little, device);
      if (on.plan().selection.hot_slots > 0) together_.insert(on.most_apart());
      EXPECT_EQ(decode_together(on), alone) << at_once << " at once";
    }
  }

  std::vector<std::vector<int32_t>> prompts_;
  int steps_ = 0;
  std::set<int> together_;
};

TEST_F(ChoosingTogether, EachAnswersAsAlone) {
  KvSelection mended = policy(KvRetention::all, KvSelector::rehearsal);
  mended.repair = true;
  const std::vector<int> rooms{1, 2, 4};
  check(policy(KvRetention::all, KvSelector::rehearsal), KvCodec::f16, *device_, rooms);
  check(policy(KvRetention::all, KvSelector::rehearsal), KvCodec::kivi4, *device_, rooms);
  check(mended, KvCodec::f16, *device_, rooms);
  check(policy(KvRetention::all, KvSelector::bounds), KvCodec::f16, *device_, rooms);
  check(policy(KvRetention::heavy), KvCodec::f16, *device_, rooms);
  check(policy(KvRetention::window), KvCodec::f16, *device_, rooms);
  EXPECT_EQ(together_, (std::set<int>{1, 2, 4}));
}

TEST_F(ChoosingTogether, EachAnswersAsAloneOnAGpu) {
  begin_on_gpu_under_test(5);
  const auto gpu = gpu_under_test();
  take(2, 2 * kPageTokens + 42, 2);  // emulation is slow
  check(policy(KvRetention::all, KvSelector::rehearsal), KvCodec::f16, *gpu, {2});
  EXPECT_EQ(together_, std::set<int>{2});
}

// Every sequence has its own part of the hot set: turns do not empty it.
TEST_F(KvPolicies, SequencesThatTakeTurnsFindWhatTheyHadFetched) {
  KvSelection selection = policy(KvRetention::all, KvSelector::oracle);
  selection.whole_layers = 0;
  selection.hot_slots = 8;
  Options wanted = options(selection);
  wanted.sequences = 2;
  wanted.context *= 2;
  wanted = tight(wanted, false);
  // The least in which that hot set fits: below, a smaller one would be taken.
  while (engine(wanted).plan().selection.hot_slots < 8 * (kKept / 4)) *wanted.device_bytes += 64 << 10;
  std::vector<std::vector<float>> alone;
  const std::vector<std::vector<int32_t>> prompts = {prompt_, random_ids(3, kPrompt, kVocab)};
  for (const auto& prompt : prompts) {
    Engine on = engine(wanted);
    const SequenceId sequence = on.open_sequence();
    on.prefill(sequence, prompt, 0, true, [](int, std::span<const float>) {});
    alone.push_back(decode(on, sequence, decoded_));
  }
  Engine on = engine(wanted);
  SequenceId ids[2];
  for (int i = 0; i < 2; ++i) {
    ids[i] = on.open_sequence();
    on.prefill(ids[i], prompts[static_cast<size_t>(i)], 0, true, [](int, std::span<const float>) {});
  }
  std::vector<float> turns[2];
  uint64_t hits = 0;
  for (int step = 0; step < kDecoded; ++step) {
    for (int i = 0; i < 2; ++i) {
      const ChosenCounts before = on.chosen_counts();
      const auto row = on.decode(ids[i], decoded_[static_cast<size_t>(step)], false);
      turns[i].insert(turns[i].end(), row.begin(), row.end());
      const ChosenCounts now = on.chosen_counts();
      if (step > 0) {
        EXPECT_GT(now.hits, before.hits) << step;
      }
      hits += now.hits - before.hits;
    }
  }
  const ChosenCounts all = on.chosen_counts();
  EXPECT_GT(3 * hits, all.granules - all.in_place) << "much of what was chosen had been fetched before";
  for (int i = 0; i < 2; ++i) EXPECT_EQ(turns[i], alone[static_cast<size_t>(i)]);
  // A cut makes another of it, which finds nothing of before.
  on.truncate_sequence(ids[0], 128);
  on.prefill(ids[0], std::span(prompts[1]).subspan(128), 0, true, [](int, std::span<const float>) {});
  const auto cut = on.decode(ids[0], 5, false);
  const std::vector<float> got(cut.begin(), cut.end());
  const auto other = make_cpu_device({.threads = 1});  // two engines may not share one
  Engine fresh = raised_engine(model_, wanted, *other);
  const SequenceId anew = fresh.open_sequence();
  fresh.prefill(anew, std::span(prompts[0]).first(128), 0, true, [](int, std::span<const float>) {});
  fresh.prefill(anew, std::span(prompts[1]).subspan(128), 0, true, [](int, std::span<const float>) {});
  const auto expected = fresh.decode(anew, 5, false);
  EXPECT_EQ(got, std::vector<float>(expected.begin(), expected.end()));
}

}  // namespace
}  // namespace spillway

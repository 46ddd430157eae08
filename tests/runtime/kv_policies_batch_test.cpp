// Sequences whose decode steps choose among their KV: in passes that they share, or in turns, each answers as it does
// alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "tests/runtime/kv_policies.h"

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
TEST_F(KvPolicies, StepsThatChooseShareAPass) {
  constexpr int kSequences = 4, kSteps = 12;
  std::vector<std::vector<int32_t>> prompts;
  for (int i = 0; i < kSequences; ++i) prompts.push_back(random_ids(20 + i, kPrompt - 50 * i, kVocab));
  KvSelection mended = policy(KvRetention::all, KvSelector::rehearsal);
  mended.repair = true;
  std::set<int> together;
  for (const auto& [selection, codec] :
       {std::pair{policy(KvRetention::all, KvSelector::rehearsal), KvCodec::f16},
        std::pair{policy(KvRetention::all, KvSelector::rehearsal), KvCodec::kivi4}, std::pair{mended, KvCodec::f16},
        std::pair{policy(KvRetention::all, KvSelector::bounds), KvCodec::f16},
        std::pair{policy(KvRetention::heavy), KvCodec::f16}, std::pair{policy(KvRetention::window), KvCodec::f16}}) {
    SCOPED_TRACE(name_of(selection, codec));
    std::vector<std::vector<float>> alone;
    for (const auto& prompt : prompts) {
      Engine on = engine(options(selection, codec));
      const SequenceId sequence = on.open_sequence();
      on.prefill(sequence, prompt, 0, true, [](int, std::span<const float>) {});
      alone.push_back(decode(on, sequence, std::span(decoded_).first(kSteps)));
    }
    Options wanted = options(selection, codec);
    wanted.sequences = wanted.batch = kSequences;
    wanted.positions = wanted.context;
    wanted.context *= kSequences;
    Options little = tight(wanted, codec == KvCodec::kivi4);
    EXPECT_EQ(engine(wanted).most_apart(), kSequences);
    for (const int at_once : {0, 1, 2, kSequences}) {  // 0: everything is on the device
      while (at_once > 0 && engine(little).most_apart() < at_once) *little.device_bytes += 32 << 10;
      Engine on = engine(at_once > 0 ? little : wanted);
      const int most = on.most_apart();
      if (on.plan().selection.hot_slots > 0) together.insert(most);
      std::vector<SequenceId> ids;
      for (const auto& prompt : prompts) {
        ids.push_back(on.open_sequence());
        on.prefill(ids.back(), prompt, 0, true, [](int, std::span<const float>) {});
      }
      std::vector<std::vector<float>> rows(kSequences);
      for (int step = 0; step < kSteps; ++step) {
        for (int first = 0; first < kSequences; first += most) {
          std::vector<PassPart> parts;
          for (int i = first; i < std::min(first + most, kSequences); ++i) {
            ASSERT_TRUE(on.decodes_apart(static_cast<int>(prompts[static_cast<size_t>(i)].size()) + step + 1));
            parts.push_back({.sequence = ids[static_cast<size_t>(i)],
                             .tokens = std::span(decoded_).subspan(static_cast<size_t>(step), 1),
                             .decode = true,
                             .logit_rows = 1});
          }
          on.step({.parts = parts}, [&](std::span<const Engine::PartRow> some) {
            for (const auto& row : some) {
              auto& to = rows[static_cast<size_t>(first) + row.part];
              to.insert(to.end(), row.logits.begin(), row.logits.end());
            }
          });
        }
      }
      for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], alone[i]) << at_once << " at once, " << i;
    }
  }
  EXPECT_EQ(together, (std::set<int>{1, 2, kSequences}));
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

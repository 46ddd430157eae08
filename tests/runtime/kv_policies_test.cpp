// Policies of KV are made of parts: which tokens stay, which of them are read, and in what bytes. Every mixture of them
// is refused with a sentence, or answers the same wherever the pages lie. And what is let go is gone.
#include "tests/runtime/kv_policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>

#include "runtime/planner.h"

namespace spillway {
namespace {

using ::testing::HasSubstr;

TEST_F(KvPolicies, EveryMixtureIsRefusedOrAnswersTheSameEverywhere) {
  std::map<std::string, int> counts;
  const PlacedWork work{.prompt = prompt_, .decoded = decoded_, .prompt_rows = 1};
  std::map<std::string, std::vector<float>> answers;  // of what is not packed
  for (const KvRetention keep : kKvRetentions) {
    for (const KvSelector selector : kKvSelectors) {
      for (const KvCodec codec : kAllKvCodecs) {
        const KvSelection selection = policy(keep, selector);
        SCOPED_TRACE(name_of(selection, codec));
        const bool parts_go = keep == KvRetention::all || selector == KvSelector::all;
        const bool goes = parts_go && (codec != KvCodec::f32 || !selection.on());
        std::vector<float> expected;
        try {
          expected = run_placed(model_, *device_, options(selection, codec), work).logits;
          EXPECT_TRUE(goes) << "is computed";
        } catch (const Error& error) {
          ASSERT_FALSE(goes) << error.what();
          EXPECT_EQ(error.kind(), ErrorKind::usage);
          const std::string says = error.what();
          EXPECT_THAT(says, HasSubstr(keep != KvRetention::all ? "--kv-keep" : "--kv-select"));
          EXPECT_THAT(says, HasSubstr(parts_go ? "--kv-type fp32" : "--kv-select"));
          counts["refused"] += 1;
          continue;
        }
        for (const bool on_disk : {false, true}) {
          Options wanted = tight(options(selection, codec), on_disk);
          const PlacedRun run = run_raised(model_, *make_cpu_device({.threads = on_disk ? 1 : 2}), wanted, work);
          EXPECT_TRUE(run.covered.layer_kv_in_two_tiers);
          counts["granules fetched"] += run.covered.granules_fetched ? 1 : 0;
          ASSERT_EQ(std::memcmp(run.logits.data(), expected.data(), expected.size() * sizeof(float)), 0)
              << (on_disk ? "on disk" : "on the host");
        }
        counts["the same everywhere"] += 1;
        if (packs(codec)) continue;
        for (const auto& [other, logits] : answers) EXPECT_NE(logits, expected) << "as " << other;
        answers[name_of(selection, codec)] = std::move(expected);
      }
    }
  }
  for (const auto& [what, count] : counts) std::printf("  %5d  %s\n", count, what.c_str());
  // Of packed codecs and half precision the 8 pairs of a retention and a selector, of single precision all but one.
  EXPECT_EQ(counts["refused"], 5 * 8 + 14);
  EXPECT_GE(counts["granules fetched"], 40);
}

// Budgets that follow from the scores, by granules of any size.
TEST_F(KvPolicies, FewerByTheirScoresAnswerTheSameEverywhere) {
  const PlacedWork work{.prompt = prompt_, .decoded = decoded_, .prompt_rows = 1};
  KvSelection alpha = policy(KvRetention::all, KvSelector::rehearsal),
              top_p = policy(KvRetention::all, KvSelector::oracle),
              pages = policy(KvRetention::all, KvSelector::bounds), both = alpha, mended = alpha;
  alpha.alpha = 1;
  top_p.top_p = 0.5;
  top_p.granule_tokens = 1;
  pages.granule_tokens = 16;
  both.alpha = 3;
  both.top_p = 0.7;
  both.ahead = 2;
  mended.repair = true;
  for (const KvSelection& selection : {alpha, top_p, pages, both, mended}) {
    const PlacedRun expected = run_placed(model_, *device_, options(selection), work);
    for (const bool on_disk : {false, true}) {
      Options wanted = tight(options(selection), on_disk);
      const PlacedRun run = run_raised(model_, *device_, wanted, work);
      ASSERT_EQ(run.logits, expected.logits) << selection.alpha << " " << selection.top_p << " " << on_disk;
      EXPECT_TRUE(run.covered.granules_fetched);
    }
  }
}

// The number of tokens follows from the scores, up to the budget; a bound that none passes changes nothing.
TEST_F(KvPolicies, AlphaAndTopPReadLess) {
  const auto read = [&](const KvSelection& selection, std::vector<float>* logits) {
    Engine on = engine(options(selection));
    const SequenceId sequence = on.open_sequence();
    on.prefill(sequence, prompt_, 1, true, [](int, std::span<const float>) {});
    *logits = decode(on, sequence, decoded_);
    return on.chosen_counts().tokens;
  };
  KvSelection all = policy(KvRetention::all, KvSelector::oracle);
  all.tokens = 256;
  std::vector<float> full, other;
  const uint64_t budget = read(all, &full);
  KvSelection alpha = all, top_p = all;
  alpha.alpha = 80;
  EXPECT_EQ(read(alpha, &other), budget);
  EXPECT_EQ(other, full);
  uint64_t before = budget;
  for (const double one : {2.0, 0.5, 0.1}) {
    alpha.alpha = one;
    const uint64_t tokens = read(alpha, &other);
    EXPECT_LT(tokens, before) << "alpha " << one;
    before = tokens;
  }
  before = budget;
  for (const double one : {0.6, 0.4, 0.2}) {
    top_p.top_p = one;
    const uint64_t tokens = read(top_p, &other);
    EXPECT_LT(tokens, before) << "top-p " << one;
    before = tokens;
  }
}

// By its own query a layer chooses better than by a foretold one: with whole keys, as the oracle does. What the
// foretold choice had not fetched is counted as repair.
TEST_F(KvPolicies, RepairReadsWhatTheOwnQueryChooses) {
  const PlacedWork work{.prompt = prompt_, .decoded = decoded_, .prompt_rows = 0};
  KvSelection rehearsal = policy(KvRetention::all, KvSelector::rehearsal);
  rehearsal.rank = 32;
  rehearsal.key_bits = 16;
  KvSelection mended = rehearsal;
  mended.repair = true;
  const auto oracle = run_placed(model_, *device_, options(policy(KvRetention::all, KvSelector::oracle)), work).logits;
  EXPECT_NE(run_placed(model_, *device_, options(rehearsal), work).logits, oracle);
  EXPECT_EQ(run_placed(model_, *device_, options(mended), work).logits, oracle);
  mended.hot_slots = 1;  // what was fetched in vain takes the place of what is wanted
  Options wanted = tight(options(mended), true);
  Engine on = engine(wanted);
  const SequenceId sequence = on.open_sequence();
  on.prefill(sequence, prompt_, 0, true, [](int, std::span<const float>) {});
  EXPECT_EQ(decode(on, sequence, decoded_), oracle);
  const auto bytes = [&](Cause cause) { return on.traffic().bytes(Link::host_to_device, cause); };
  EXPECT_GT(bytes(Cause::kv_repair), 0u);
  EXPECT_EQ(on.chosen_counts().granules, uint64_t{kDecoded} * (kLayers - 1) * 2 * (kKept / 4)) << "each once";
}

// Of each layer that lets go, the pages of the first tokens and of the newest stay; all others leave every tier.
TEST_F(KvPolicies, AWindowLeavesItsPages) {
  for (const bool tightly : {false, true}) {
    Options wanted = options(policy(KvRetention::window));
    if (tightly) wanted = tight(wanted, false);
    Engine on = engine(wanted);
    const SequenceId sequence = on.open_sequence();
    on.prefill(sequence, prompt_, 1, true, [](int, std::span<const float>) {});
    const uint64_t row = on.plan().kv_layout.row_bytes();
    EXPECT_EQ(on.kv_kept(sequence), kLayers * 15 * row) << "a prompt is kept whole";
    decode(on, sequence, decoded_);
    // 72 tokens by granules of 4: one of sinks, 17 with the newest of 973, from 908 on: page rows 0, 14 and 15.
    ASSERT_EQ(on.tokens(sequence), kPrompt + kDecoded);
    EXPECT_EQ(on.kv_kept(sequence), (16 + (kLayers - 1) * 3) * row);
    uint64_t used = 0;
    for (const Tier tier : {Tier::device, Tier::host, Tier::disk}) used += on.kv_bytes(tier);
    EXPECT_EQ(used, on.kv_kept(sequence)) << "and their slots are free";
    // Every head has read what its window held.
    EXPECT_EQ(on.chosen_counts().granules, uint64_t{kDecoded} * (kLayers - 1) * 2 * (kKept / 4));
  }
}

// The window's answer is that of a model that sees nothing else: whatever tokens stood in between.
TEST_F(KvPolicies, WhatAWindowHasLetGoIsNotInTheAnswer) {
  KvSelection one_layer = policy(KvRetention::window);
  one_layer.whole_layers = 0;
  const Model shallow = open_for_test(write_tiny_model({.layers = 1,
                                                        .hidden = 64,
                                                        .heads = 4,
                                                        .kv_heads = 2,
                                                        .head_dim = 32,
                                                        .ffn = 96,
                                                        .vocab = kVocab,
                                                        .seed = 9,
                                                        .name = "shallow"},
                                                       ::testing::TempDir()));
  std::vector<int32_t> other = prompt_;
  for (int i = 8; i < kPrompt - 80; ++i) other[i] = (other[i] + 1) % kVocab;
  const auto answer = [&](const std::vector<int32_t>& prompt, const KvSelection& selection) {
    return run_placed(shallow, *device_, options(selection), {.prompt = prompt, .decoded = decoded_, .prompt_rows = 0})
        .logits;
  };
  EXPECT_EQ(answer(prompt_, one_layer), answer(other, one_layer));
  EXPECT_NE(answer(prompt_, {}), answer(other, {}));
  // Of what one layer has read, each token's sum goes by the whole prompt.
  KvSelection heavy = policy(KvRetention::heavy);
  heavy.whole_layers = 0;
  EXPECT_NE(answer(prompt_, heavy), answer(other, heavy));
  EXPECT_NE(answer(prompt_, heavy), answer(prompt_, one_layer));
}

// A fork goes on from the attention that its parent has added up; the parent knows nothing of it, and a place that is
// free again nothing of who had it.
TEST_F(KvPolicies, ForksTakeTheirSumsAlong) {
  Options wanted = options(policy(KvRetention::heavy));
  wanted.sequences = 2;
  wanted.context *= 2;
  Engine on = engine(wanted);
  const auto prompt = [&](SequenceId sequence) {
    on.prefill(sequence, prompt_, 0, true, [](int, std::span<const float>) {});
  };
  const std::span<const int32_t> first = std::span(decoded_).first(10), rest = std::span(decoded_).subspan(10);
  const SequenceId parent = on.open_sequence();
  prompt(parent);
  decode(on, parent, first);
  const SequenceId fork = on.fork_sequence(parent);
  const std::vector<float> forked = decode(on, fork, rest);
  on.close_sequence(fork);
  EXPECT_EQ(decode(on, parent, rest), forked);
  const SequenceId again = on.open_sequence();
  prompt(again);
  decode(on, again, first);
  EXPECT_EQ(decode(on, again, rest), forked);
}

// A prompt that is read with a window adds up what its queries see in that: as without one where it holds all, and the
// same wherever the pages are.
TEST_F(KvPolicies, AWindowOfThePromptBoundsItsSums) {
  KvSelection heavy = policy(KvRetention::heavy);
  heavy.whole_layers = 0;
  const auto answer = [&](const Options& wanted, int window) {
    Engine on = engine(wanted);
    const SequenceId sequence = on.open_sequence();
    on.set_prompt_window(window);
    on.prefill(sequence, prompt_, 0, true, [](int, std::span<const float>) {});
    on.set_prompt_window(0);
    return decode(on, sequence, decoded_);
  };
  const std::vector<float> whole = answer(options(heavy), 0), windowed = answer(options(heavy), 100);
  EXPECT_EQ(answer(options(heavy), kPrompt), whole);
  EXPECT_NE(windowed, whole);
  for (const float logit : windowed) ASSERT_TRUE(std::isfinite(logit));
  EXPECT_EQ(answer(tight(options(heavy), false), 100), windowed);
}

// What comes after something has been let go is decoded, token by token, and a cut takes everything.
TEST_F(KvPolicies, WhatFollowsIsDecoded) {
  for (const KvRetention keep : {KvRetention::window, KvRetention::heavy}) {
    Engine on = engine(options(policy(keep)));
    const auto prompt = [&](SequenceId sequence) {
      on.prefill(sequence, prompt_, 0, true, [](int, std::span<const float>) {});
    };
    SequenceId sequence = on.open_sequence();
    prompt(sequence);
    const std::vector<float> one_by_one = decode(on, sequence, decoded_);
    EXPECT_EQ(on.truncate_sequence(sequence, kPrompt), 0);
    EXPECT_EQ(on.kv_kept(sequence), 0u);
    prompt(sequence);
    std::vector<float> rows;
    on.prefill(sequence, decoded_, kDecoded, false,
               [&](int, std::span<const float> row) { rows.insert(rows.end(), row.begin(), row.end()); });
    EXPECT_EQ(rows, one_by_one);
  }
}

// Layers with a sliding window read what it holds, and choose nothing; the others choose.
TEST_F(KvPolicies, LayersWithAWindowChooseNothing) {
  const PlacedWork work{.prompt = prompt_, .decoded = decoded_, .prompt_rows = 1};
  for (const int layer : {0, 2}) model_.spec.layers[static_cast<size_t>(layer)].window = 100;
  for (KvSelection selection :
       {policy(KvRetention::all, KvSelector::rehearsal), policy(KvRetention::all, KvSelector::bounds),
        policy(KvRetention::window), policy(KvRetention::heavy)}) {
    selection.whole_layers = 0;
    selection.ahead = selection.selector == KvSelector::bounds ? 1 : 2;
    SCOPED_TRACE(selection.flag());
    Engine on = engine(options(selection));
    EXPECT_EQ(on.plan().kv_layout.choosing_layers(), 2);
    const SequenceId sequence = on.open_sequence();
    std::vector<float> logits;
    on.prefill(sequence, prompt_, 1, true,
               [&](int, std::span<const float> row) { logits.assign(row.begin(), row.end()); });
    const std::vector<float> rows = decode(on, sequence, decoded_);
    logits.insert(logits.end(), rows.begin(), rows.end());
    EXPECT_EQ(on.chosen_counts().granules, uint64_t{kDecoded} * 2 * 2 * (kKept / 4));
    for (const bool on_disk : {false, true}) {
      Options wanted = tight(options(selection), on_disk);
      const PlacedRun run = run_raised(model_, *make_cpu_device({.threads = 1}), wanted, work);
      EXPECT_EQ(run.logits, logits) << on_disk;
      EXPECT_TRUE(run.covered.granules_fetched);
    }
  }
}

}  // namespace
}  // namespace spillway

// The rules of a selection: how many granules, and which in any case, from positions alone.
#include "runtime/kv_selection.h"

#include <gtest/gtest.h>

#include "kernels/check.h"

namespace spillway {
namespace {

KvSelection share(double of, int granule_tokens = 4) {
  return {.selector = KvSelector::rehearsal, .share = of, .granule_tokens = granule_tokens};
}

TEST(KvSelection, ASharePicksItsPartOfTheTokens) {
  const GranuleChoice choice = granule_choice(share(0.1), 4096);
  EXPECT_EQ(choice.granules, 1024);
  EXPECT_EQ(choice.count, 102) << "409.6 tokens, whole granules, never more";
  EXPECT_EQ(granule_choice(share(0.05, 1), 8192).count, 409);
}

TEST(KvSelection, SinksAndTheNewestTokensAreAlwaysIn) {
  for (const int size : {1, 2, 4}) {
    for (int tokens = 200; tokens < 300; ++tokens) {
      const GranuleChoice choice = granule_choice(share(0.1, size), tokens);
      EXPECT_EQ(choice.first * size, kSinkTokens);
      EXPECT_LE((choice.granules - choice.last) * size, tokens - kRecentTokens) << "the newest " << kRecentTokens;
      EXPECT_GT((choice.granules - choice.last + 1) * size, tokens - kRecentTokens) << "and no granule more";
      EXPECT_LE(choice.first + choice.last, choice.count);
    }
  }
}

// What has been let go is never wanted again: neither does the window begin earlier in a longer sequence, nor does the
// number grow by more than what is new.
TEST(KvSelection, WhatIsKeptNeverGrowsByWhatIsGone) {
  for (const KvRetention keep : {KvRetention::window, KvRetention::heavy}) {
    for (const int size : {1, 4, 16}) {
      for (const double part : {0.03, 0.1, 0.57, 0.9}) {
        KvSelection selection = share(part, size);
        selection.selector = KvSelector::all;
        selection.keep = keep;
        GranuleChoice before = granule_choice(selection, 1);
        for (int tokens = 2; tokens < 3000; ++tokens) {
          const GranuleChoice choice = granule_choice(selection, tokens);
          EXPECT_LE(choice.count - before.count, choice.granules - before.granules) << tokens;
          if (choice.count < choice.granules) {
            EXPECT_LE((choice.granules - choice.last) * size, tokens - kRecentTokens) << tokens;
            EXPECT_GE(choice.first * size, kSinkTokens);
            if (before.count < before.granules) {
              EXPECT_GE(choice.granules - choice.last, before.granules - before.last) << tokens;
            }
            if (keep == KvRetention::window) {
              EXPECT_EQ(choice.first + choice.last, choice.count);
            }
          }
          before = choice;
        }
      }
    }
  }
}

TEST(KvSelection, OfAShortContextEverythingIsRead) {
  const auto reads_all = [](const KvSelection& selection, int tokens) {
    const GranuleChoice choice = granule_choice(selection, tokens);
    return choice.count == choice.granules;
  };
  for (int tokens = 1; tokens <= kLeastTokens; ++tokens) EXPECT_TRUE(reads_all(share(0.1), tokens)) << tokens;
  EXPECT_FALSE(reads_all(share(0.1), kLeastTokens + 4));
  EXPECT_TRUE(reads_all(share(1.0), 100000));
  KvSelection number = share(0.1);
  number.tokens = 60;
  EXPECT_TRUE(reads_all(number, 60));
  EXPECT_FALSE(reads_all(number, 68));
  EXPECT_EQ(granule_choice(number, 100000).count, 15);
  EXPECT_TRUE(reads_all({}, 100000)) << "no selection";
}

TEST(KvSelection, TheMostIsNeverPassed) {
  for (const int size : {1, 2, 4}) {
    for (const double part : {0.03, 0.1, 0.3, 0.9}) {
      for (const int context : {64, 128, 192, 1024, 3008}) {
        const KvSelection selection = share(part, size);
        int most = 0;
        for (int tokens = 1; tokens <= context; ++tokens) {
          const GranuleChoice choice = granule_choice(selection, tokens);
          if (choice.count < choice.granules) most = std::max(most, choice.count);
        }
        EXPECT_EQ(most_granules(selection, context), most) << size << " " << part << " " << context;
      }
    }
  }
}

TEST(KvSelection, LayersWithAWindowAndTheFirstOnesReadEverything) {
  ModelSpec spec;
  spec.layers.resize(6);
  for (int i = 0; i < 6; ++i) spec.layers[i].from_start = i;
  spec.layers[3].window = 512;
  KvSelection selection = share(0.1);
  EXPECT_EQ(choosing_layers(selection, spec), (std::vector<bool>{false, false, true, false, true, true}));
  selection.whole_layers = 0;
  EXPECT_EQ(choosing_layers(selection, spec), (std::vector<bool>{true, true, true, false, true, true}));
  for (LayerTensors& layer : spec.layers) layer.window = 64;
  EXPECT_TRUE(choosing_layers(selection, spec).empty());
  EXPECT_TRUE(choosing_layers({}, spec).empty());
}

TEST(KvSelection, APartialKeyIsNoLongerThanAHead) {
  ModelShape shape;
  shape.kv_heads = 2;
  shape.head_dim = 80;
  KvSelection selection = share(0.1);
  EXPECT_EQ(partial_key_format(selection, shape), (PartialKeyFormat{2, 40, 4}));
  selection.rank = 80;
  EXPECT_EQ(partial_key_format(selection, shape).rank, 80);
  for (const int bad : {88, 12}) {
    selection.rank = bad;
    EXPECT_THROW(partial_key_format(selection, shape), Error) << bad;
  }
  selection.selector = KvSelector::infinigen;
  selection.rank = 0;
  EXPECT_EQ(partial_key_format(selection, shape), (PartialKeyFormat{2, 16, 16}));
  selection.selector = KvSelector::oracle;
  EXPECT_EQ(partial_key_format(selection, shape), (PartialKeyFormat{2, 80, 16}));
}

}  // namespace
}  // namespace spillway

#include "memory/expert_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <map>
#include <random>

namespace spillway {
namespace {

TEST(ExpertCache, TheLeastRecentlyUsedGivesWay) {
  ExpertCache cache(8, 3);
  EXPECT_EQ(cache.find(5), std::nullopt);
  const int a = *cache.take(5, Warmth::warm), b = *cache.take(6, Warmth::warm), c = *cache.take(7, Warmth::warm);
  EXPECT_EQ(cache.find(6), b);
  cache.touch(a, Warmth::warm);
  EXPECT_EQ(cache.take(0, Warmth::warm), b);
  EXPECT_EQ(cache.find(6), std::nullopt);
  EXPECT_EQ(cache.take(1, Warmth::warm), c);
  EXPECT_EQ(cache.find(5), a);
}

TEST(ExpertCache, WhatIsPinnedStays) {
  ExpertCache cache(8, 2);
  const int a = *cache.take(0, Warmth::warm), b = *cache.take(1, Warmth::warm);
  cache.pin(a);
  EXPECT_EQ(cache.take(2, Warmth::warm), b);
  cache.pin(b);
  EXPECT_EQ(cache.take(3, Warmth::warm), std::nullopt);
  EXPECT_EQ(cache.find(3), std::nullopt);
  cache.unpin(a);
  EXPECT_EQ(cache.take(3, Warmth::warm), a);
}

// A prompt that reads all experts of many layers goes through the slots that are free and then through one.
TEST(ExpertCache, APromptPassesThrough) {
  ExpertCache cache(100, 10);
  for (uint32_t e = 0; e < 8; ++e) cache.take(e, Warmth::warm);
  for (uint32_t e = 20; e < 100; ++e) {
    const int slot = *cache.take(e, Warmth::cold);
    cache.touch(slot, Warmth::cold);
  }
  for (uint32_t e = 0; e < 8; ++e) EXPECT_TRUE(cache.find(e)) << e;
  EXPECT_TRUE(cache.find(99));
  EXPECT_FALSE(cache.find(98));
}

// Beside a model of plain lists.
TEST(ExpertCache, AgreesWithPlainLists) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 50; ++round) {
    const int slots = 1 + static_cast<int>(random() % 9);
    ExpertCache cache(40, slots);
    std::list<uint32_t> order;  // the coldest first
    std::map<uint32_t, int> pins;
    for (int step = 0; step < 400; ++step) {
      const auto expert = static_cast<uint32_t>(random() % 40);
      const Warmth warmth = random() % 3 == 0 ? Warmth::cold : Warmth::warm;
      const auto found = std::find(order.begin(), order.end(), expert);
      ASSERT_EQ(cache.find(expert).has_value(), found != order.end());
      if (found != order.end()) {
        const int slot = *cache.find(expert);
        if (random() % 2 == 0 && pins[expert] > 0) {
          cache.unpin(slot);
          --pins[expert];
          continue;
        }
        cache.touch(slot, warmth);
        if (warmth == Warmth::warm) order.splice(order.end(), order, found);
        if (random() % 4 == 0) {
          cache.pin(slot);
          ++pins[expert];
        }
        continue;
      }
      auto victim = order.end();
      if (static_cast<int>(order.size()) == slots) {
        victim = std::find_if(order.begin(), order.end(), [&](uint32_t e) { return pins[e] == 0; });
        if (victim == order.end()) {
          ASSERT_EQ(cache.take(expert, warmth), std::nullopt);
          continue;
        }
        order.erase(victim);
      }
      ASSERT_TRUE(cache.take(expert, warmth));
      order.insert(warmth == Warmth::warm ? order.end() : order.begin(), expert);
    }
  }
}

}  // namespace
}  // namespace spillway

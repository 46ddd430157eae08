#include "memory/kv/hot_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>
#include <set>

namespace spillway {
namespace {

using Ids = std::vector<int32_t>;

struct Chosen {
  Ids slots, missed;
};

Chosen choose(HotSet& set, int list, const Ids& granules) {
  Chosen chosen{Ids(granules.size()), {}};
  set.choose(list, granules, chosen.slots, chosen.missed);
  return chosen;
}

TEST(HotSet, TheLeastRecentlyChosenGivesWay) {
  HotSet set(1, 100, 4);
  EXPECT_EQ(choose(set, 0, {1, 2, 3}).missed, (Ids{0, 1, 2}));
  const Chosen second = choose(set, 0, {2, 3, 50});
  EXPECT_EQ(second.missed, (Ids{2}));
  // 1 is the oldest, though it came first of all.
  const Chosen third = choose(set, 0, {2, 60});
  EXPECT_EQ(third.missed, (Ids{1}));
  EXPECT_EQ(choose(set, 0, {1, 2, 50, 60}).missed, (Ids{0}));
}

// However full the set, none of what is chosen gives way to another that is chosen with it.
TEST(HotSet, WhatIsChosenTogetherIsThereTogether) {
  HotSet set(1, 10, 3);
  choose(set, 0, {0, 1, 2});
  const Chosen chosen = choose(set, 0, {0, 5, 6});
  EXPECT_EQ(chosen.missed, (Ids{1, 2}));
  EXPECT_EQ(std::set<int32_t>(chosen.slots.begin(), chosen.slots.end()).size(), 3u);
  EXPECT_TRUE(choose(set, 0, {0, 5, 6}).missed.empty());
}

TEST(HotSet, ListsDoNotKnowEachOther) {
  HotSet set(3, 10, 2);
  choose(set, 1, {4, 5});
  EXPECT_EQ(choose(set, 0, {4, 5}).missed.size(), 2u);
  EXPECT_EQ(choose(set, 2, {4}).missed.size(), 1u);
  EXPECT_TRUE(choose(set, 1, {4, 5}).missed.empty());
}

// Of some granules, in all lists; their slots are the first to be taken, and the others are where they were.
TEST(HotSet, ForgetsARange) {
  HotSet set(2, 20, 4);
  for (const int list : {0, 1}) choose(set, list, {1, 12, 3, 15});
  const Chosen before = choose(set, 0, {1, 3});
  set.forget(10, 10);
  const Chosen after = choose(set, 0, {1, 3, 4, 5});
  EXPECT_EQ(after.missed, (Ids{2, 3}));
  EXPECT_EQ((Ids{after.slots[0], after.slots[1]}), before.slots);
  EXPECT_EQ(choose(set, 1, {12, 15}).missed.size(), 2u);
  EXPECT_TRUE(choose(set, 1, {1, 3}).missed.empty()) << "what came took the places of what was forgotten";
  set.forget(0, 20);
  EXPECT_EQ(choose(set, 0, {1, 3, 4, 5}).missed.size(), 4u);
  EXPECT_EQ(choose(set, 1, {1, 3, 12, 15}).missed.size(), 4u);
}

TEST(HotSet, ForgetsEverything) {
  HotSet set(2, 10, 2);
  choose(set, 0, {1, 2});
  choose(set, 1, {1, 2});
  set.clear();
  EXPECT_EQ(choose(set, 0, {1, 2}).missed.size(), 2u);
  EXPECT_EQ(choose(set, 1, {1}).missed.size(), 1u);
}

// Beside plain lists of each list's granules, the oldest first.
TEST(HotSet, AgreesWithPlainLists) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 60; ++round) {
    const int lists = 1 + static_cast<int>(random() % 3), granules = 4 + static_cast<int>(random() % 60);
    const int slots = 1 + static_cast<int>(random() % 12);
    HotSet set(lists, granules, slots);
    std::vector<std::list<int32_t>> order(lists);
    std::vector<std::vector<int32_t>> slot_of(lists, std::vector<int32_t>(granules, -1));
    for (int step = 0; step < 300; ++step) {
      const int list = static_cast<int>(random() % lists);
      Ids wanted;
      for (int32_t g = 0; g < granules && static_cast<int>(wanted.size()) < slots; ++g) {
        if (random() % 3 == 0) wanted.push_back(g);
      }
      const Chosen chosen = choose(set, list, wanted);
      std::list<int32_t>& here = order[list];
      Ids missed;
      for (size_t i = 0; i < wanted.size(); ++i) {
        const auto found = std::find(here.begin(), here.end(), wanted[i]);
        if (found != here.end()) {
          here.splice(here.end(), here, found);
          ASSERT_EQ(chosen.slots[i], slot_of[list][wanted[i]]);
        } else {
          missed.push_back(static_cast<int32_t>(i));
        }
      }
      for (const int32_t i : missed) {
        if (static_cast<int>(here.size()) == slots) here.pop_front();
        here.push_back(wanted[i]);
        slot_of[list][wanted[i]] = chosen.slots[i];
      }
      ASSERT_EQ(chosen.missed, missed);
      std::set<int32_t> places;
      for (const int32_t g : here) places.insert(slot_of[list][g]);
      ASSERT_EQ(places.size(), here.size());
    }
  }
}

}  // namespace
}  // namespace spillway

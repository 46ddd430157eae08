// The page cache against a plain model of it: every row in one place, nobody else's, references counted, slots reused
// only after their last user.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <set>

#include "kernels/check.h"
#include "tests/memory/kv_memory.h"

namespace spillway {
namespace {

TEST(KvCache, RunsCoverTheNewTokensInOrder) {
  Memory memory(1, 8, 0, 0, 8);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  int tokens = 0;
  for (int count : {1, 62, 1, 64, 130, 5}) {
    const KvGrowth growth = cache.grow(sequence, 0, count);
    int row = 0;
    for (const AppendRun& run : growth.runs) {
      EXPECT_EQ(run.first_row, row);
      EXPECT_EQ(run.first_token, (tokens + row) % kPageTokens);
      EXPECT_EQ(run.page_row, cache.place(sequence, 0, (tokens + row) / kPageTokens).data);
      row += run.count;
    }
    EXPECT_EQ(row, count);
    cache.advance(sequence, count);
    tokens += count;
    EXPECT_EQ(cache.tokens(sequence), tokens);
    EXPECT_EQ(cache.rows(sequence, 0), page_rows(tokens));
  }
}

TEST(KvCache, SpillsTheOldestSealedRowsFirstToHostThenToDisk) {
  Memory memory(2, 8, 2, 8, 2);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int page = 0; page < 6; ++page) grow_all(cache, sequence, kPageTokens);
  for (int layer = 0; layer < 2; ++layer) {
    std::vector<Tier> tiers;
    for (int row = 0; row < 6; ++row) tiers.push_back(cache.place(sequence, layer, row).tier);
    EXPECT_EQ(tiers, (std::vector<Tier>{Tier::host, Tier::disk, Tier::disk, Tier::disk, Tier::device, Tier::device}))
        << "layer " << layer;
  }
  EXPECT_EQ(cache.slots_used(Tier::device), 4u);
  EXPECT_EQ(cache.slots_used(Tier::host), 2u);
  EXPECT_EQ(cache.slots_used(Tier::disk), 6u);
}

TEST(KvCache, TheOpenRowNeverLeavesTheDevice) {
  Memory memory(1, 4, 8, 0, 1);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int token = 0; token < 5 * kPageTokens + 3; ++token) {
    grow_all(cache, sequence, 1);
    if (cache.tokens(sequence) % kPageTokens != 0) {
      EXPECT_EQ(cache.place(sequence, 0, cache.rows(sequence, 0) - 1).tier, Tier::device);
    }
  }
}

TEST(KvCache, ASealedRowThatIsCutFillsAgain) {
  Memory memory(2, 8, 0, 0, 8);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  grow_all(cache, sequence, 3 * kPageTokens + 5);
  std::byte* const cut = cache.place(sequence, 1, 1).data;
  const uint64_t version = cache.version();
  EXPECT_EQ(cache.truncate(sequence, kPageTokens + 9, {}), kPageTokens + 9);
  EXPECT_NE(cache.version(), version);
  EXPECT_EQ(cache.tokens(sequence), kPageTokens + 9);
  EXPECT_EQ(cache.rows(sequence, 1), 2);
  EXPECT_EQ(cache.slots_used(Tier::device), 4u) << "two rows of two layers";
  const KvGrowth growth = cache.grow(sequence, 1, 1);
  ASSERT_EQ(growth.runs.size(), 1u);
  EXPECT_EQ(growth.runs[0].page_row, cut);
  EXPECT_EQ(growth.runs[0].first_token, 9);
  EXPECT_EQ(cache.truncate(sequence, 0, {}), 0);
  EXPECT_EQ(cache.slots_used(Tier::device), 0u);
}

// Pages that another sequence reads, or that have left the device, are not written again.
TEST(KvCache, ACutInASharedOrSpilledRowTakesTheWholeRow) {
  Memory memory(1, 4, 8, 0, 1);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId spilled = cache.open();
  grow_all(cache, spilled, 3 * kPageTokens);
  ASSERT_EQ(cache.place(spilled, 0, 1).tier, Tier::host);
  EXPECT_EQ(cache.truncate(spilled, 2 * kPageTokens - 1, {}), kPageTokens);
  EXPECT_EQ(cache.slots_used(Tier::host), 1u);
  cache.close(spilled, {});
  const SequenceId one = cache.open();
  grow_all(cache, one, 20);
  const SequenceId two = cache.fork(one);
  EXPECT_EQ(cache.truncate(one, 10, {}), 0);
  EXPECT_EQ(cache.tokens(two), 20);
  EXPECT_EQ(cache.rows(two, 0), 1);
  EXPECT_EQ(cache.truncate(two, 10, {}), 10) << "its own by now";
}

TEST(KvCache, ForkedSequencesShareUntilOneWrites) {
  Memory memory(1, 8, 0, 0, 8);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId one = cache.open();
  grow_all(cache, one, kPageTokens + 10);
  const SequenceId two = cache.fork(one);
  EXPECT_EQ(cache.slots_used(Tier::device), 2u);
  EXPECT_EQ(cache.place(one, 0, 1).data, cache.place(two, 0, 1).data);
  const KvGrowth growth = cache.grow(two, 0, 1);
  ASSERT_EQ(growth.copies.size(), 1u);
  EXPECT_EQ(growth.copies[0].from, cache.place(one, 0, 1).data);
  EXPECT_EQ(growth.copies[0].to, cache.place(two, 0, 1).data);
  cache.advance(two, 1);
  EXPECT_NE(cache.place(one, 0, 1).data, cache.place(two, 0, 1).data);
  EXPECT_EQ(cache.place(one, 0, 0).data, cache.place(two, 0, 0).data);
  EXPECT_TRUE(cache.grow(one, 0, 1).copies.empty()) << "the other has its own row now";
  cache.advance(one, 1);
  cache.close(one, {});
  EXPECT_EQ(cache.slots_used(Tier::device), 2u);
  cache.close(two, {});
  EXPECT_EQ(cache.slots_used(Tier::device), 0u);
}

TEST(KvCache, FullTiersAreRefusedWithTheNumbers) {
  Memory memory(1, 3, 1, 1, 1);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  try {
    for (int page = 0; page < 10; ++page) grow_all(cache, sequence, kPageTokens);
    FAIL() << "ten rows cannot fit five slots";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::fit);
    EXPECT_THAT(std::string(error.what()), ::testing::HasSubstr("KV cache"));
  }
}

// A timeline of the test's own: events become done when it says so.
class Manual : public Timeline {
 public:
  bool done(uint64_t ticket) override { return ticket < now; }
  void wait(uint64_t ticket) override { now = ticket + 1; }
  uint64_t now = 0;
};

TEST(KvCache, ASlotIsReusedOnlyAfterItsLastUser) {
  Memory memory(1, 2, 4, 0, 1);
  KvCache cache(memory.layout, memory.pools);
  Manual spills;
  const SequenceId sequence = cache.open();
  for (uint64_t page = 0; page < 4; ++page) {
    const KvGrowth growth = cache.grow(sequence, 0, kPageTokens);
    if (page >= 2) {
      ASSERT_EQ(growth.after.size(), 1u) << "the slot's former row is still being spilled";
      EXPECT_EQ(growth.after[0].ticket, page - 2);
    }
    for (const Demotion& demotion : cache.settle(0)) cache.moved(demotion, {&spills, page - 1});
    cache.advance(sequence, kPageTokens);
  }
}

TEST(KvCache, AClosedSequencesSlotsAreFreeAfterTheirLastUser) {
  Memory memory(1, 3, 2, 0, 1);
  KvCache cache(memory.layout, memory.pools);
  Manual spills, fetches, readers;
  const SequenceId first = cache.open();
  const auto grow = [&](SequenceId sequence) {
    KvGrowth growth = cache.grow(sequence, 0, kPageTokens);
    cache.advance(sequence, kPageTokens);
    return growth;
  };
  for (uint64_t page = 0; page < 3; ++page) {
    grow(first);
    for (const Demotion& demotion : cache.settle(0)) cache.moved(demotion, {&spills, page});
  }
  cache.reading(first, 0, 0, {&fetches, 5});
  const SequenceId fork = cache.fork(first);
  cache.close(first, {&readers, 8});
  EXPECT_EQ(cache.slots_used(Tier::device) + cache.slots_used(Tier::host), 3u) << "the fork still reads them";
  cache.close(fork, {&readers, 9});
  EXPECT_EQ(cache.slots_used(Tier::device) + cache.slots_used(Tier::host), 0u);

  const SequenceId second = cache.open();
  std::vector<uint64_t> device_after, host_after;
  for (int page = 0; page < 3; ++page) {
    for (const Event& event : grow(second).after) {
      if (event.timeline == &readers) device_after.push_back(event.ticket);
    }
    for (const Demotion& demotion : cache.settle(0)) {
      for (const Event& event : demotion.after)
        host_after.push_back(event.ticket + (event.timeline == &fetches ? 100 : 0));
      cache.moved(demotion, {});
    }
  }
  EXPECT_EQ(device_after, std::vector<uint64_t>{9}) << "the last reader is who closed it last";
  EXPECT_EQ(host_after, (std::vector<uint64_t>{105, 2})) << "one was fetched, the other spilled and never read";
}

// A row keeps its sidecar wherever it goes; who writes on in a shared page has one of its own, with what was there.
TEST(KvCache, SidecarsFollowTheirRows) {
  KvLayout layout(shape_of(2));
  layout.chosen = {.layers = {false, true}, .partial = {2, 8, 16}, .granule_tokens = 4};
  Memory memory(layout, {16, 0}, {8, 0}, {0, 0}, 1);
  std::vector<std::byte> sidecars(6 * layout.sidecar_bytes());
  memory.pools.choosing_rows_per_layer = 1;
  memory.pools.sidecars = sidecars.data();
  memory.pools.sidecar_count = 6;
  KvCache cache(layout, memory.pools);
  const SequenceId first = cache.open();
  const KvGrowth whole = cache.grow(first, 0, 2 * kPageTokens + 10),
                 growth = cache.grow(first, 1, 2 * kPageTokens + 10);
  EXPECT_TRUE(whole.sidecars.empty());
  EXPECT_EQ(cache.sidecar(first, 0, 0), nullptr);
  ASSERT_EQ(growth.sidecars.size(), growth.runs.size());
  cache.advance(first, 2 * kPageTokens + 10);
  for (int row = 0; row < 3; ++row) EXPECT_EQ(cache.sidecar(first, 1, row), growth.sidecars[row]);
  EXPECT_EQ(std::set<std::byte*>(growth.sidecars.begin(), growth.sidecars.end()).size(), 3u);
  for (const int layer : {0, 1}) {
    for (const Demotion& demotion : cache.settle(layer)) cache.moved(demotion, {});
  }
  EXPECT_EQ(cache.place(first, 1, 0).tier, Tier::host);
  EXPECT_EQ(cache.sidecar(first, 1, 0), growth.sidecars[0]);

  const SequenceId fork = cache.fork(first);
  EXPECT_NE(cache.generation(fork), cache.generation(first));
  EXPECT_EQ(cache.sidecar(fork, 1, 2), growth.sidecars[2]);
  const KvGrowth copied = cache.grow(fork, 1, 1);
  std::byte* own = cache.sidecar(fork, 1, 2);
  EXPECT_NE(own, growth.sidecars[2]);
  EXPECT_EQ(copied.sidecars, std::vector<std::byte*>{own});
  ASSERT_EQ(copied.copies.size(), 2u);
  EXPECT_EQ(copied.copies[1].to, own);
  EXPECT_EQ(copied.copies[1].from, growth.sidecars[2]);
  EXPECT_EQ(copied.copies[1].bytes, layout.sidecar_bytes());

  const uint64_t before = cache.generation(first);
  cache.truncate(first, kPageTokens, {});
  EXPECT_NE(cache.generation(first), before);
  cache.close(first, {});
  cache.close(fork, {});
  const SequenceId all = cache.open();
  std::set<std::byte*> places;
  for (std::byte* place : cache.grow(all, 1, 6 * kPageTokens).sidecars) places.insert(place);
  EXPECT_EQ(places.size(), 6u) << "all are free again, each once";
  EXPECT_THROW(cache.grow(cache.open(), 1, 1), Error);
}

// Rows that are let go are free in whatever tier they are, once nobody else has them; the others stay where they are.
TEST(KvCache, WhatIsLetGoIsFree) {
  KvLayout layout(shape_of(1));
  Memory memory(layout, {8, 0}, {4, 0}, {4, 0}, 2);
  KvCache cache(layout, memory.pools);
  const SequenceId first = cache.open();
  cache.grow(first, 0, 6 * kPageTokens + 10);
  cache.advance(first, 6 * kPageTokens + 10);
  for (const Demotion& demotion : cache.settle(0)) cache.moved(demotion, {});
  const uint64_t row = layout.row_bytes();
  EXPECT_EQ(cache.bytes_kept(first), 7 * row);
  EXPECT_EQ(cache.slots_used(Tier::host), 4u);
  const SequenceId fork = cache.fork(first);
  const uint64_t version = cache.version();
  EXPECT_EQ(cache.let_go(first, 0, {true, false, false, true, false, false, true}, {}), 4);
  EXPECT_NE(cache.version(), version);
  EXPECT_EQ(cache.bytes_kept(first), 3 * row);
  EXPECT_EQ(cache.bytes_kept(fork), 7 * row);
  EXPECT_EQ(cache.slots_used(Tier::host), 4u) << "the fork has them";
  EXPECT_EQ(cache.rows(first, 0), 7);
  EXPECT_EQ(cache.place(first, 0, 3).tier, Tier::host);
  std::vector<RowPlace> places;
  cache.places(first, 0, places);
  ASSERT_EQ(places.size(), 7u);
  EXPECT_EQ(places[1].data, nullptr);
  EXPECT_EQ(places[3].data, cache.place(fork, 0, 3).data);
  cache.close(fork, {});
  EXPECT_EQ(cache.bytes_used(Tier::host) + cache.bytes_used(Tier::device) + cache.bytes_used(Tier::disk), 3 * row);
  // Again, and the open row, which stays whatever is said.
  EXPECT_EQ(cache.let_go(first, 0, {true, false, false, false, false, false, false}, {}), 1);
  EXPECT_EQ(cache.bytes_kept(first), 2 * row);
  EXPECT_EQ(cache.truncate(first, 0, {}), 0);
  EXPECT_EQ(cache.slots_used(Tier::device) + cache.slots_used(Tier::host) + cache.slots_used(Tier::disk), 0u);
  EXPECT_EQ(cache.grow(first, 0, 8 * kPageTokens).runs.size(), 8u) << "all slots are free again";
}

// Random growth, forks and closes over small pools: every slot has one owner at a time, and contents follow the rows.
TEST(KvCache, RandomLifeKeepsEveryRowInOnePlace) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 50; ++round) {
    const bool packs = round % 2 == 1;
    const KvPacked packed{.first_layer = 1, .last_layer = packs ? 2 : 1};
    Memory memory(KvLayout(shape_of(2), KvCodec::kivi2, packed), {2 * 12 + 6, packs ? 12u + 6 : 0},
                  {20, packs ? 8u : 0}, {200, packs ? 200u : 0}, 12);
    KvCache cache(memory.layout, memory.pools);
    std::set<SequenceId> open;
    for (int step = 0; step < 60; ++step) {
      const uint64_t what = random() % 10;
      if (open.empty() || (what == 0 && open.size() < 3)) {
        open.insert(cache.open());
      } else if (what == 1 && open.size() < 3) {
        open.insert(cache.fork(*open.begin()));
      } else if (what == 2) {
        cache.close(*open.begin(), {});
        open.erase(open.begin());
      } else {
        auto it = open.begin();
        std::advance(it, random() % open.size());
        grow_all(cache, *it, 1 + static_cast<int>(random() % 130));
      }
      std::set<std::pair<int, uint32_t>> slots;  // of distinct rows
      std::map<std::pair<int, uint32_t>, std::pair<int, int>> owner;
      for (SequenceId sequence : open) {
        for (int layer = 0; layer < 2; ++layer) {
          for (int row = 0; row < cache.rows(sequence, layer); ++row) {
            const RowPlace place = cache.place(sequence, layer, row);
            const std::pair<int, uint32_t> slot{2 * static_cast<int>(place.tier) + place.packed, place.slot};
            slots.insert(slot);
            const auto [found, fresh] = owner.insert({slot, {layer, row}});
            ASSERT_TRUE(fresh || found->second == std::make_pair(layer, row)) << "two rows in one slot";
          }
        }
      }
      const uint32_t used =
          cache.slots_used(Tier::device) + cache.slots_used(Tier::host) + cache.slots_used(Tier::disk);
      ASSERT_EQ(used, slots.size()) << "a slot is lost or held for nobody";
    }
  }
}

}  // namespace
}  // namespace spillway

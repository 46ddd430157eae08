// Rows of pages that are packed: which, when, where they lie, and what shared ones become.
#include <gtest/gtest.h>

#include <vector>

#include "tests/memory/kv_memory.h"

namespace spillway {
namespace {

// Three layers, the middle one of which packs.
KvLayout packing_layout() { return KvLayout(shape_of(3), KvCodec::kivi4, {.first_layer = 1, .last_layer = 2}); }

std::vector<bool> packed_rows(const KvCache& cache, SequenceId sequence) {
  std::vector<bool> packed;
  for (int row = 0; row < cache.rows(sequence, 1); ++row) packed.push_back(cache.place(sequence, 1, row).packed);
  return packed;
}

TEST(KvCachePacking, PackedRowsTakeTheirOwnBytes) {
  const KvLayout layout = packing_layout();
  EXPECT_EQ(layout.row_bytes(), align_up(layout.format.row_of_pages_bytes(), kDiskAlign));
  EXPECT_EQ(layout.row_bytes(true), align_up(2u * PackedPage::of(KvCodec::kivi4, 16).bytes(), kDiskAlign));
  EXPECT_LT(layout.row_bytes(true), layout.row_bytes());
  EXPECT_EQ(layout.bytes({2, 3}), 2 * layout.row_bytes() + 3 * layout.row_bytes(true));
  EXPECT_EQ(layout.format_of(1).codec, KvCodec::kivi4);
  EXPECT_EQ(layout.format_of(2).codec, KvCodec::f16);
  EXPECT_EQ(KvLayout(shape_of(3), KvCodec::kivi4).packed_layers(), 0);
  EXPECT_EQ(KvLayout(shape_of(3), KvCodec::f16, {.first_layer = 0, .last_layer = 3}), KvLayout(shape_of(3)));
}

TEST(KvCachePacking, FullRowsArePackedOnceTheyWereRead) {
  Memory memory(packing_layout(), {3 * 6, 8}, {}, {}, 100);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int layer = 0; layer < 3; ++layer) cache.grow(sequence, layer, 5 * kPageTokens + 7);
  EXPECT_FALSE(cache.place(sequence, 1, 1).packed) << "the pass that fills a row reads it as it is";
  const std::byte* before = cache.place(sequence, 1, 1).data;
  EXPECT_TRUE(cache.pack(0).runs.empty());
  EXPECT_TRUE(cache.pack(2).runs.empty());
  const KvPacking packing = cache.pack(1);
  ASSERT_EQ(packing.runs.size(), 2u);
  EXPECT_EQ(packing.runs[0].from, before);
  EXPECT_TRUE(cache.pack(1).runs.empty()) << "once";
  cache.advance(sequence, 5 * kPageTokens + 7);
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, true, false, false, false}))
      << "the sinks, the two newest and the open row stay as they are";
  EXPECT_EQ(cache.place(sequence, 1, 1).data, packing.runs[0].to);
  EXPECT_EQ(cache.place(sequence, 1, 1).bytes, memory.layout.row_bytes(true));
  EXPECT_EQ(cache.bytes_used(Tier::device), memory.layout.bytes({16, 2}));
  EXPECT_EQ(memory.layout.slots_of(6), (KvSlots{16, 2}));
  EXPECT_EQ(cache.grow(sequence, 1, kPageTokens).runs.back().page_row, before) << "the slot is free at once";
}

// Token by token or at once: what is packed follows from the length alone.
TEST(KvCachePacking, TheNewestFullRowsStayAsTheyAre) {
  Memory memory(packing_layout(), {3 * 8, 8}, {}, {}, 100);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int token = 1; token <= 6 * kPageTokens; ++token) {
    grow_all(cache, sequence, 1);
    const std::vector<bool> packed = packed_rows(cache, sequence);
    for (int row = 0; row < static_cast<int>(packed.size()); ++row) {
      ASSERT_EQ(packed[row], row >= 1 && row < token / kPageTokens - 2) << row << " of " << token;
    }
  }
}

// A sequence that has gone on does not pack what another one, which has not, reads as it is.
TEST(KvCachePacking, ASharedRowIsPackedApart) {
  KvLayout layout = packing_layout();
  layout.chosen = {.layers = {false, true, false}, .partial = {2, 8, 16}, .granule_tokens = 4};
  Memory memory(layout, {3 * 8, 8}, {}, {}, 100);
  std::vector<std::byte> sidecars(8 * layout.sidecar_bytes());
  memory.pools.choosing_rows_per_layer = 100;
  memory.pools.sidecars = sidecars.data();
  memory.pools.sidecar_count = 8;
  KvCache cache(memory.layout, memory.pools);
  const SequenceId one = cache.open();
  grow_all(cache, one, 4 * kPageTokens);
  const SequenceId two = cache.fork(one);
  const std::byte* shared = cache.place(one, 1, 2).data;
  std::byte* sidecar = cache.sidecar(one, 1, 2);
  for (int layer = 0; layer < 3; ++layer) {
    cache.grow(two, layer, kPageTokens);
    const KvPacking packing = cache.pack(layer);
    ASSERT_EQ(packing.runs.size(), layer == 1 ? 1u : 0u);
    if (layer != 1) continue;
    EXPECT_EQ(packing.runs[0].from, shared);
    EXPECT_EQ(packing.runs[0].to, cache.place(two, 1, 2).data);
    ASSERT_EQ(packing.copies.size(), 1u);
    EXPECT_EQ(packing.copies[0].from, sidecar);
    EXPECT_EQ(packing.copies[0].to, cache.sidecar(two, 1, 2));
    EXPECT_NE(packing.copies[0].to, sidecar);
    EXPECT_EQ(packing.copies[0].bytes, layout.sidecar_bytes());
    EXPECT_EQ(packing.sidecars, std::vector<std::byte*>{cache.sidecar(two, 1, 2)});
  }
  cache.advance(two, kPageTokens);
  EXPECT_EQ(packed_rows(cache, one), (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ(packed_rows(cache, two), (std::vector<bool>{false, true, true, false, false}));
  EXPECT_EQ(cache.place(one, 1, 2).data, shared);
  EXPECT_EQ(cache.place(one, 1, 1).data, cache.place(two, 1, 1).data) << "packed before they parted";
  grow_all(cache, one, kPageTokens);
  EXPECT_EQ(packed_rows(cache, one), (std::vector<bool>{false, true, true, false, false}));
  EXPECT_EQ(cache.sidecar(one, 1, 2), sidecar) << "its own by now: packed where it is";
  cache.close(one, {});
  cache.close(two, {});
  EXPECT_EQ(cache.slots_used(Tier::device), 0u);
}

// What a cut leaves stays as it is; rows that fill again are packed in their turn.
TEST(KvCachePacking, ACutLeavesPackedRowsPacked) {
  Memory memory(packing_layout(), {3 * 9, 9}, {}, {}, 100);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  grow_all(cache, sequence, 6 * kPageTokens + 5);
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, true, true, false, false, false}));
  EXPECT_EQ(cache.truncate(sequence, 5 * kPageTokens + 9, {}), 5 * kPageTokens + 9) << "not packed yet";
  EXPECT_EQ(cache.truncate(sequence, 3 * kPageTokens + 9, {}), 3 * kPageTokens) << "a packed page goes as a whole";
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, true}));
  grow_all(cache, sequence, 2 * kPageTokens);
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, true, false, false}));
  grow_all(cache, sequence, kPageTokens);
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, true, true, false, false}));
  EXPECT_EQ(cache.truncate(sequence, 7, {}), 7);
  grow_all(cache, sequence, 4 * kPageTokens);
  EXPECT_EQ(packed_rows(cache, sequence), (std::vector<bool>{false, true, false, false, false}));
}

TEST(KvCachePacking, PackedRowsSpillAndSinksStay) {
  Memory memory(packing_layout(), {3 * 5, 4}, {2, 1}, {20, 20}, 2);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int page = 0; page < 6; ++page) grow_all(cache, sequence, kPageTokens);
  const auto tiers = [&](int layer) {
    std::vector<Tier> list;
    for (int row = 0; row < 6; ++row) list.push_back(cache.place(sequence, layer, row).tier);
    return list;
  };
  EXPECT_EQ(tiers(1),
            (std::vector<Tier>{Tier::device, Tier::host, Tier::disk, Tier::disk, Tier::device, Tier::device}));
  EXPECT_EQ(tiers(0), (std::vector<Tier>{Tier::host, Tier::disk, Tier::disk, Tier::disk, Tier::device, Tier::device}));
  const RowPlace spilled = cache.place(sequence, 1, 2);
  EXPECT_TRUE(spilled.packed);
  EXPECT_GE(spilled.file_offset, 20 * memory.layout.row_bytes()) << "behind the full ones";
}

TEST(KvCachePacking, ACutInAPackedRowTakesTheWholeRow) {
  Memory memory(packing_layout(), {3 * 7, 8}, {}, {}, 100);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId sequence = cache.open();
  for (int page = 0; page < 6; ++page) grow_all(cache, sequence, kPageTokens);
  grow_all(cache, sequence, 9);
  EXPECT_EQ(cache.truncate(sequence, 6 * kPageTokens + 3, {}), 6 * kPageTokens + 3) << "the open row is written again";
  EXPECT_EQ(cache.truncate(sequence, 2 * kPageTokens + 30, {}), 2 * kPageTokens);
  EXPECT_EQ(cache.bytes_used(Tier::device), memory.layout.bytes({5, 1}));
  EXPECT_EQ(cache.truncate(sequence, 30, {}), 30) << "the sinks were never packed";
  grow_all(cache, sequence, 6 * kPageTokens);
  EXPECT_TRUE(cache.place(sequence, 1, 1).packed);
  EXPECT_FALSE(cache.place(sequence, 1, 0).packed);
  cache.close(sequence, {});
  EXPECT_EQ(cache.bytes_used(Tier::device), 0u);
}

TEST(KvCachePacking, PackedRowsAreShared) {
  Memory memory(packing_layout(), {3 * 8, 8}, {}, {}, 100);
  KvCache cache(memory.layout, memory.pools);
  const SequenceId one = cache.open();
  for (int page = 0; page < 5; ++page) grow_all(cache, one, kPageTokens);
  grow_all(cache, one, 5);
  const SequenceId two = cache.fork(one);
  const uint64_t shared = cache.bytes_used(Tier::device);
  grow_all(cache, two, 1);
  EXPECT_EQ(cache.place(one, 1, 1).data, cache.place(two, 1, 1).data);
  EXPECT_EQ(cache.bytes_used(Tier::device), shared + 3 * memory.layout.row_bytes()) << "the open rows are its own";
  cache.close(one, {});
  EXPECT_TRUE(cache.place(two, 1, 2).packed);
}

}  // namespace
}  // namespace spillway

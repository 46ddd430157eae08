// Attention over chosen granules, wherever they lie, on every backend; and the gathering that brings them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/kv_codec.h"
#include "kernels/reference/packed_page.h"
#include "tests/kernels/head_groups.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridSelected : public OpGrid {};

constexpr HeadGroups kShapes[] = {{7, 2, 64}, {1, 3, 64},  {2, 1, 80},  {3, 2, 96},  {8, 1, 128},
                                  {4, 1, 72}, {70, 1, 16}, {1, 2, 256}, {5, 1, 200}, {2, 1, 32}};
std::string name_of(const HeadGroups& s) {
  return std::to_string(s.group) + " x " + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim);
}
int64_t states_width(const AttendShape& s) { return int64_t{s.heads} * attn_state_floats(s.format.head_dim); }

// A layer's keys and values by granules: first in pages, then each granule by itself, in slots in random order, with a
// gap of what is no number between them. Packed: all but the first page and the open one, whose halves are those that
// the codes stand for.
class Kv {
 public:
  Kv(OpBench& bench, const KvFormat& format, int tokens, int granule)
      : format_(format),
        tokens_(tokens),
        granule_(granule),
        slot_bytes_(2 * granule * format.token_bytes() + 16),
        packed_slot_bytes_(format.packed_page().granule_bytes + 16),
        pages_(bench.device(), page_rows() * format.row_of_pages_bytes()),
        packed_(bench.device(), page_rows() * format.packed_row_bytes() + 16),
        slots_(bench.device(), granules() * format.kv_heads * slot_bytes_),
        packed_slots_(bench.device(), granules() * format.kv_heads * packed_slot_bytes_),
        order_(static_cast<size_t>(granules() * format.kv_heads)) {
    for (BenchBytes* bytes : {&pages_, &packed_, &slots_, &packed_slots_})
      std::memset(bytes->here(), 0xff, bytes->size());
    BenchMatrix k(bench.device(), DType::f32, tokens, int64_t{format.kv_heads} * format.head_dim);
    BenchMatrix v(bench.device(), DType::f32, tokens, int64_t{format.kv_heads} * format.head_dim);
    k.fill(31);
    v.fill(32);
    for (int t = 0; t < tokens; t += 37) v.row(t)[t % format.head_dim] = 40.0f;  // one left out would be seen
    std::vector<AppendRun> runs;
    for (int t = 0; t < tokens; t += kPageTokens) {
      runs.push_back(
          {pages_.here() + t / kPageTokens * format.row_of_pages_bytes(), 0, t, std::min(kPageTokens, tokens - t)});
    }
    bench.reference([&](Ops& ops, Stream& s) { ops.append(s, k.here(), v.here(), format, runs); });
    if (format.packs()) pack(bench);
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), std::mt19937(7));
    for (int head = 0; head < format.kv_heads; head++) {
      for (int g = 0; g < granules(); g++) fill_slot(head, g);
    }
    for (BenchBytes* bytes : {&pages_, &packed_, &slots_, &packed_slots_}) bytes->upload(bench.stream());
  }

  int granules() const { return (tokens_ + granule_ - 1) / granule_; }
  // The places of these granules of each head (ids [kv_heads x count]): those of odd numbers in slots, the others where
  // their page has them.
  std::vector<GranulePlace> places(bool there, bool packed, const std::vector<int>& ids) {
    const auto count = static_cast<int>(ids.size()) / format_.kv_heads;
    std::vector<GranulePlace> list;
    for (size_t i = 0; i < ids.size(); i++) {
      list.push_back(place(there, packed, static_cast<int>(i) / count, ids[i]));
    }
    return list;
  }
  // Pages as they are; those that can be packed as they unpack.
  std::vector<KvSpan> spans() {
    std::vector<KvSpan> all;
    for (int first = 0; first < tokens_; first += kSpanTokens) {
      KvSpan span{.rows = {}, .first_position = first, .tokens = std::min(kSpanTokens, tokens_ - first)};
      for (int t = 0; t < span.tokens; t += kPageTokens) {
        span.rows[t / kPageTokens] = pages_.there() + (first + t) / kPageTokens * format_.row_of_pages_bytes();
      }
      all.push_back(span);
    }
    return all;
  }

 private:
  int page_rows() const { return (tokens_ + kPageTokens - 1) / kPageTokens; }
  bool is_packed(int granule) const {
    const int page = granule * granule_ / kPageTokens;
    return format_.packs() && page > 0 && (page + 1) * kPageTokens <= tokens_;
  }
  std::byte* page(std::byte* base, int head, int granule) const {
    return base + granule * granule_ / kPageTokens * format_.row_of_pages_bytes() + head * format_.page_bytes();
  }
  std::byte* packed_page(std::byte* base, int head, int granule) const {
    return base + granule * granule_ / kPageTokens * format_.packed_row_bytes() + head * format_.packed_page().bytes();
  }
  void pack(OpBench& bench) {
    std::vector<SealRun> seals;
    for (int row = 1; (row + 1) * kPageTokens <= tokens_; row++) {
      seals.push_back(
          {pages_.here() + row * format_.row_of_pages_bytes(), packed_.here() + row * format_.packed_row_bytes()});
    }
    bench.reference([&](Ops& ops, Stream& s) { ops.seal(s, format_, seals); });
    for (int g = 0; g < granules(); g += kPageTokens / granule_) {
      for (int head = 0; head < format_.kv_heads && is_packed(g); head++) {
        reference::unpack_page(format_, packed_page(packed_.here(), head, g), page(pages_.here(), head, g));
      }
    }
  }
  uint64_t in_page(int granule) const { return granule * granule_ % kPageTokens * format_.token_bytes(); }
  uint64_t in_packed_page(int granule) const {
    const PackedPage p = format_.packed_page();
    return p.header_bytes + granule * granule_ % kPageTokens / kGranuleTokens * p.granule_bytes;
  }
  std::byte* slot(std::byte* base, uint64_t bytes, int head, int granule) const {
    return base + order_[static_cast<size_t>(head * granules() + granule)] * bytes;
  }
  void fill_slot(int head, int granule) {
    const uint64_t bytes = granule_ * format_.token_bytes();
    std::byte* to = slot(slots_.here(), slot_bytes_, head, granule);
    const std::byte* from = page(pages_.here(), head, granule) + in_page(granule);
    std::memcpy(to, from, bytes);
    std::memcpy(to + bytes, from + format_.page_bytes() / 2, bytes);
    if (!is_packed(granule)) return;
    std::memcpy(slot(packed_slots_.here(), packed_slot_bytes_, head, granule),
                packed_page(packed_.here(), head, granule) + in_packed_page(granule),
                format_.packed_page().granule_bytes);
  }
  GranulePlace place(bool there, bool packed, int head, int granule) {
    GranulePlace place;
    place.tokens = std::min(granule_, tokens_ - granule * granule_);
    if (packed && is_packed(granule)) {
      std::byte* own = packed_page(there ? packed_.there() : packed_.here(), head, granule);
      place.keys = granule % 2 == 0
                       ? own + in_packed_page(granule)
                       : slot(there ? packed_slots_.there() : packed_slots_.here(), packed_slot_bytes_, head, granule);
      place.values = own;
      place.packed = 1;
      return place;
    }
    if (granule % 2 == 0) {
      place.keys = page(there ? pages_.there() : pages_.here(), head, granule) + in_page(granule);
      place.values = place.keys + format_.page_bytes() / 2;
    } else {
      place.keys = slot(there ? slots_.there() : slots_.here(), slot_bytes_, head, granule);
      place.values = place.keys + granule_ * format_.token_bytes();
    }
    return place;
  }

  KvFormat format_;
  int tokens_;
  int granule_;
  uint64_t slot_bytes_, packed_slot_bytes_;
  BenchBytes pages_, packed_, slots_, packed_slots_;
  std::vector<uint64_t> order_;
};

// The states that a backend has of some granules.
class States {
 public:
  States(OpBench& bench, const AttendShape& shape, BenchMatrix& q, std::vector<GranulePlace> places, int granule)
      : count_(static_cast<int>(places.size()) / shape.format.kv_heads),
        table_(bench.device(), places.size() * sizeof(GranulePlace)),
        states(bench.device(), DType::f32, SelectedKv{nullptr, count_, granule}.states(), states_width(shape), 4, 8) {
    std::copy(places.begin(), places.end(), reinterpret_cast<GranulePlace*>(table_.here()));
    table_.upload(bench.stream());
    bench.ops().attend_selected(bench.stream(), q.there(), shape, kv(table_.there(), granule), states.there());
    states.download(bench.stream());
  }
  static SelectedKv kv(const std::byte* table, int count, int granule) {
    return {reinterpret_cast<const GranulePlace*>(table), count, granule};
  }
  SelectedKv kv(const std::byte* table, int granule) const { return kv(table, count_, granule); }

 private:
  int count_;
  BenchBytes table_;

 public:
  BenchMatrix states;
};

// As what they mean: averages, and the logarithm of the sum.
void expect_states(const AttendShape& s, const View& got, const View& wanted) {
  const int d = s.format.head_dim;
  for (int64_t slot = 0; slot < wanted.rows; slot++) {
    const float *a = got.f32(slot), *b = wanted.f32(slot);
    for (int h = 0; h < s.heads; h++, a += d + 2, b += d + 2) {
      ASSERT_NEAR(a[d] + std::log(a[d + 1]), b[d] + std::log(b[d + 1]), 2e-5) << "slot " << slot << ", head " << h;
      // Values of up to 40, weighted by numbers that are off by the rounding of a sum of head_dim products.
      for (int i = 0; i < d; i++) ASSERT_NEAR(a[i] / a[d + 1], b[i] / b[d + 1], 2e-3) << "slot " << slot << ", " << i;
    }
  }
}

void expect_reference(OpBench& bench, const AttendShape& shape, BenchMatrix& q, Kv& kv, const std::vector<int>& ids,
                      int granule, bool packed) {
  States got(bench, shape, q, kv.places(true, packed, ids), granule);
  const std::vector<GranulePlace> here = kv.places(false, packed, ids);
  BenchMatrix wanted(bench.device(), DType::f32, got.states.here().rows, states_width(shape));
  bench.reference([&](Ops& ops, Stream& stream) {
    ops.attend_selected(stream, q.here(), shape,
                        {here.data(), static_cast<int>(ids.size()) / shape.format.kv_heads, granule}, wanted.here());
  });
  expect_states(shape, got.states.here(), wanted.here());
}

// `count` of the granules for each head, ascending, the last among them.
std::vector<int> choose(const Kv& kv, int kv_heads, int count) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<int> ids;
  for (int head = 0; head < kv_heads; head++) {
    std::vector<int> all(static_cast<size_t>(kv.granules() - 1));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + count - 1);
    ids.insert(ids.end(), all.begin(), all.begin() + count - 1);
    ids.push_back(kv.granules() - 1);
  }
  return ids;
}

TEST_P(OpGridSelected, AttendMatchesTheReference) {
  for (const HeadGroups& s : kShapes) {
    const AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model());
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim, 4);
    q.fill(5);
    q.upload(bench.stream());
    for (const int granule : {1, 2, 4}) {
      if (GetParam().emulated && granule == 2 && s.head_dim > 64) continue;
      Kv kv(bench, shape.format, 1203, granule);  // the last granule of 4 has 3
      for (const int tokens : {1, 4, 63, 64, 68, 512, 516, 800}) {
        if (GetParam().emulated && tokens > 600 && s.head_dim > 64) continue;
        SCOPED_TRACE(name_of(s) + ", " + std::to_string(tokens) + " tokens by " + std::to_string(granule));
        expect_reference(bench, shape, q, kv, choose(kv, s.kv_heads, (tokens + granule - 1) / granule), granule, false);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// All granules: what attend has over the spans, though it may add up in another order.
TEST_P(OpGridSelected, AllGranulesAreAllTokens) {
  for (const HeadGroups& s : {kShapes[0], kShapes[4], kShapes[7]}) {
    const AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model());
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
    q.fill(5);
    q.upload(bench.stream());
    for (const int granule : {1, 4, 64}) {
      SCOPED_TRACE(name_of(s) + " by " + std::to_string(granule));
      Kv kv(bench, shape.format, 605, granule);
      std::vector<int> all;
      for (int i = 0; i < s.kv_heads * kv.granules(); i++) all.push_back(i % kv.granules());
      States got(bench, shape, q, kv.places(true, false, all), granule);
      BenchMatrix wanted(bench.device(), DType::f32, 2, states_width(shape));
      std::vector<SpanTask> tasks;
      for (const KvSpan& span : kv.spans()) tasks.push_back({span, 0, static_cast<int>(tasks.size())});
      bench.ops().attend(bench.stream(), q.there(), shape, tasks, wanted.there());
      wanted.download(bench.stream());
      expect_states(shape, got.states.here(), wanted.here());
      if (HasFatalFailure()) return;
    }
  }
}

// To the bit what the halves give that the packed granules stand for; some of a state packed, and some not.
TEST_P(OpGridSelected, PackedGranules) {
  for (const HeadGroups& s :
       {kShapes[0], kShapes[1], kShapes[2], kShapes[4], kShapes[5], kShapes[7], kShapes[8], kShapes[9]}) {
    for (const KvCodec codec : kPackers) {
      const AttendShape shape = s.attend(codec);
      OpBench bench(GetParam(), s.model());
      BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
      q.fill(5);
      q.upload(bench.stream());
      Kv kv(bench, shape.format, 702, kGranuleTokens);
      for (const int count : {1, 17, 130, 176}) {
        if (GetParam().emulated && count == 130 && s.head_dim > 64) continue;
        SCOPED_TRACE(name_of(s) + ", " + info(codec).name + ", " + std::to_string(count) + " granules");
        const std::vector<int> ids = choose(kv, s.kv_heads, count);
        expect_reference(bench, shape, q, kv, ids, kGranuleTokens, true);
        if (HasFatalFailure()) return;
        States packed(bench, shape, q, kv.places(true, true, ids), kGranuleTokens);
        States same(bench, shape, q, kv.places(true, false, ids), kGranuleTokens);
        for (int64_t i = 0; i < same.states.here().rows; i++) {
          ASSERT_TRUE(same_bits(packed.states.here(), i, same.states.here(), i)) << "state " << i;
        }
      }
    }
  }
}

// Where granules lie changes no bit: in slots or in their pages.
TEST_P(OpGridSelected, PlacesDoNotMatter) {
  const HeadGroups s = kShapes[0];
  const AttendShape shape = s.attend();
  OpBench bench(GetParam(), s.model());
  BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
  q.fill(5);
  q.upload(bench.stream());
  Kv kv(bench, shape.format, 400, 4);
  const std::vector<int> ids = choose(kv, s.kv_heads, 60);
  std::vector<GranulePlace> places = kv.places(true, false, ids);
  States first(bench, shape, q, places, 4);
  BenchBytes elsewhere(bench.device(), places.size() * 2 * 4 * shape.format.token_bytes());
  std::vector<GatherRun> runs;
  std::byte* to = elsewhere.there();
  for (GranulePlace& place : places) {
    const uint64_t bytes = 4 * shape.format.token_bytes();
    runs.push_back({to, place.keys, bytes});
    runs.push_back({to + bytes, place.values, bytes});
    place.keys = to;
    place.values = to + bytes;
    to += 2 * bytes;
  }
  bench.stream().gather(runs);
  States second(bench, shape, q, places, 4);
  for (int64_t i = 0; i < first.states.here().rows; i++) {
    EXPECT_TRUE(same_bits(first.states.here(), i, second.states.here(), i));
  }
}

// A KV head that chose fewer has places without tokens behind its own; a state of such places alone is empty.
TEST_P(OpGridSelected, HeadsThatChoseFewer) {
  for (const HeadGroups& s : {kShapes[0], kShapes[3], kShapes[7]}) {
    SCOPED_TRACE(name_of(s));
    const AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model());
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
    q.fill(5);
    q.upload(bench.stream());
    Kv kv(bench, shape.format, 1203, 4);
    const std::vector<int> few = choose(kv, s.kv_heads, 70);
    States own(bench, shape, q, kv.places(true, false, few), 4);
    std::vector<GranulePlace> places;
    const std::vector<GranulePlace> chosen = kv.places(true, false, few);
    for (int head = 0; head < s.kv_heads; head++) {
      places.insert(places.end(), chosen.begin() + head * 70, chosen.begin() + (head + 1) * 70);
      places.resize(places.size() + 200);
    }
    States padded(bench, shape, q, places, 4);
    ASSERT_EQ(padded.states.here().rows, 3);
    EXPECT_TRUE(same_bits(padded.states.here(), 0, own.states.here(), 0));
    for (int head = 0; head < shape.heads; head++) {
      for (const int row : {1, 2}) {
        const float* state = padded.states.row(row) + head * attn_state_floats(s.head_dim);
        EXPECT_EQ(state[s.head_dim + 1], 0.0f);
        EXPECT_EQ(state[s.head_dim], -std::numeric_limits<float>::infinity());
        EXPECT_EQ(state[0], 0.0f);
      }
    }
  }
}

TEST_P(OpGridSelected, NothingSelected) {
  const AttendShape shape = kShapes[0].attend();
  OpBench bench(GetParam(), kShapes[0].model());
  BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * 64);
  BenchMatrix states(bench.device(), DType::f32, 0, states_width(shape));
  bench.ops().attend_selected(bench.stream(), q.there(), shape, {nullptr, 0, 4}, states.there());
  bench.stream().synchronize();
}

// ---- gathering

TEST_P(OpGridSelected, GatherBringsEveryRun) {
  OpBench bench(GetParam());
  std::mt19937 random(3);
  constexpr int kPlaces = 9000;  // of up to 16 words of 16 bytes
  BenchBytes from(bench.device(), kPlaces * 256), to(bench.device(), kPlaces * 256);
  for (uint64_t i = 0; i < from.size(); i++) from.here()[i] = static_cast<std::byte>(random());
  std::vector<int> order(kPlaces);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (const int count : {0, 1, 7, 300, kPlaces}) {
    std::memset(to.here(), 0x5a, to.size());
    to.upload(bench.stream());
    std::vector<std::byte> wanted(to.here(), to.here() + to.size());
    std::vector<GatherRun> runs;
    for (int i = 0; i < count; i++) {
      const uint64_t bytes = i % 50 == 3 ? 0 : 16 * (1 + random() % 16);
      std::byte* source = from.here() + 256 * i;
      runs.push_back({to.there() + 256 * order[static_cast<size_t>(i)], source, bytes});
      std::memcpy(wanted.data() + 256 * order[static_cast<size_t>(i)], source, bytes);
    }
    bench.stream().gather(runs);
    runs.clear();  // they have been taken
    to.download(bench.stream());
    ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), to.here())) << count << " runs";
  }
}

// One that is longer than what a device has in flight, and what is on the device already.
TEST_P(OpGridSelected, GatherOfLongRuns) {
  OpBench bench(GetParam());
  constexpr uint64_t kBytes = 20000;
  BenchBytes from(bench.device(), kBytes), to(bench.device(), 2 * kBytes);
  for (uint64_t i = 0; i < kBytes; i++) from.here()[i] = static_cast<std::byte>(i * 7);
  from.upload(bench.stream());
  const std::vector<GatherRun> runs = {{to.there(), from.here(), kBytes}, {to.there() + kBytes, from.there(), kBytes}};
  bench.stream().gather(runs);
  to.download(bench.stream());
  for (const uint64_t at : {uint64_t{0}, kBytes}) EXPECT_EQ(std::memcmp(to.here() + at, from.here(), kBytes), 0);
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridSelected);

}  // namespace
}  // namespace spillway

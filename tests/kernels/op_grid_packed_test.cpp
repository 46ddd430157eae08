// Packed KV pages on every backend: the bytes of the reference, and attention that reads a packed page as it reads, to
// the bit, the page of half precision that it stands for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kv_codec.h"
#include "kernels/reference/packed_page.h"
#include "tests/kernels/head_groups.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridPacked : public OpGrid {};

constexpr HeadGroups kShapes[] = {{3, 2, 64}, {1, 1, 80}, {7, 1, 96},  {2, 2, 128},
                                  {4, 1, 72}, {5, 1, 16}, {1, 1, 256}, {5, 1, 200}};

std::string name_of(const HeadGroups& s, KvCodec codec) {
  return std::string(info(codec).name) + ", " + std::to_string(s.head_dim) + " x " + std::to_string(s.group);
}

// A layer's pages three times over: as they came, packed, and as the packed ones unpack. The first page and the last
// stay as they came, as sinks and the open page do.
class PackedKv {
 public:
  PackedKv(OpBench& bench, const KvFormat& format, int tokens)
      : format_(format),
        tokens_(tokens),
        pages_((tokens + kPageTokens - 1) / kPageTokens),
        full_(bench.device(), pages_ * format.row_of_pages_bytes()),
        unpacked_(bench.device(), full_.size()),
        packed_(bench.device(), pages_ * format.packed_row_bytes()) {
    std::memset(full_.here(), 0xff, full_.size());  // what no token fills is no number: reading it would show
    BenchMatrix k(bench.device(), DType::f32, tokens, int64_t{format.kv_heads} * format.head_dim);
    BenchMatrix v(bench.device(), DType::f32, tokens, int64_t{format.kv_heads} * format.head_dim);
    k.fill(31);
    v.fill(32);
    for (int t = 0; t < tokens; t += 37) v.row(t)[t % format.head_dim] = 40.0f;
    for (int t = 0; t < tokens; t++) k.row(t)[1] += 15.0f;  // a channel of outliers
    std::vector<AppendRun> runs;
    for (int page = 0; page < pages_; page++) {
      runs.push_back({full_.here() + page * format.row_of_pages_bytes(), 0, page * kPageTokens,
                      std::min(kPageTokens, tokens - page * kPageTokens)});
    }
    bench.reference([&](Ops& ops, Stream& s) {
      ops.append(s, k.here(), v.here(), format, runs);
      ops.seal(s, format, seals(full_.here(), packed_.here()));
    });
    std::memcpy(unpacked_.here(), full_.here(), full_.size());
    for (int page = 1; page < full_pages(); page++) {
      for (int head = 0; head < format.kv_heads; head++) {
        reference::unpack_page(format,
                               packed_.here() + page * format.packed_row_bytes() + head * format.packed_page().bytes(),
                               unpacked_.here() + page * format.row_of_pages_bytes() + head * format.page_bytes());
      }
    }
    full_.upload(bench.stream());
    unpacked_.upload(bench.stream());
    packed_.upload(bench.stream());
  }

  int full_pages() const { return tokens_ / kPageTokens; }
  BenchBytes& full() { return full_; }
  BenchBytes& packed() { return packed_; }
  // Of all pages that are full.
  std::vector<SealRun> seals(const std::byte* from, std::byte* to) const {
    std::vector<SealRun> runs;
    for (int page = 0; page < full_pages(); page++) {
      runs.push_back({from + page * format_.row_of_pages_bytes(), to + page * format_.packed_row_bytes()});
    }
    return runs;
  }
  // Spans of the first `tokens` positions, packed, or as that unpacks.
  std::vector<KvSpan> spans(bool on_device, bool packed, int tokens) {
    std::vector<KvSpan> all;
    for (int first = 0; first < tokens; first += kSpanTokens) {
      KvSpan span{.rows = {}, .first_position = first, .tokens = std::min(kSpanTokens, tokens - first)};
      for (int t = 0; t < span.tokens; t += kPageTokens) {
        const int page = (first + t) / kPageTokens;
        const bool is_packed = packed && page > 0 && (page + 1) * kPageTokens <= tokens;
        BenchBytes& bytes = is_packed ? packed_ : (page + 1) * kPageTokens <= tokens ? unpacked_ : full_;
        const uint64_t row = is_packed ? format_.packed_row_bytes() : format_.row_of_pages_bytes();
        span.rows[t / kPageTokens] = (on_device ? bytes.there() : bytes.here()) + page * row;
        if (is_packed) span.packed |= 1u << t / kPageTokens;
      }
      all.push_back(span);
    }
    return all;
  }
  // Granules 1, 3, ... of each KV head, of one span's tokens; packed, or as that unpacks.
  std::vector<GranulePlace> every_second_granule(bool on_device, bool packed) {
    const KvSpan span = spans(on_device, packed, tokens_)[0];
    const PackedPage page = format_.packed_page();
    std::vector<GranulePlace> places;
    for (int head = 0; head < format_.kv_heads; head++) {
      for (int token = kGranuleTokens; token + kGranuleTokens <= tokens_; token += 2 * kGranuleTokens) {
        const int row = token / kPageTokens, in_page = token % kPageTokens;
        GranulePlace place{.tokens = kGranuleTokens, .packed = span.is_packed(row) ? 1 : 0};
        place.values = span.rows[row] + head * page.bytes();
        place.keys = place.values + page.header_bytes + in_page / kGranuleTokens * page.granule_bytes;
        if (place.packed == 0) {
          place.keys = span.rows[row] + head * format_.page_bytes() + in_page * format_.token_bytes();
          place.values = place.keys + kPageTokens * format_.token_bytes();
        }
        places.push_back(place);
      }
    }
    return places;
  }

 private:
  KvFormat format_;
  int tokens_;
  int pages_;
  BenchBytes full_, unpacked_, packed_;
};

TEST_P(OpGridPacked, SealGivesTheBytesOfTheReference) {
  for (const HeadGroups& s : kShapes) {
    for (const KvCodec codec : kPackers) {
      const KvFormat format = s.attend(codec).format;
      OpBench bench(GetParam(), s.model());
      PackedKv kv(bench, format, 3 * kPageTokens);
      auto* halves = reinterpret_cast<uint16_t*>(kv.full().here());
      halves[5] = 0x7c00;                             // infinity in a key
      halves[kPageTokens * s.head_dim + 9] = 0xfe01;  // no number in a value
      for (int i = 0; i < s.head_dim; i++) halves[(kPageTokens + 3) * s.head_dim + i] = i % 2 == 0 ? 0x8000 : 0;
      kv.full().upload(bench.stream());
      BenchBytes wanted(bench.device(), kv.packed().size());
      bench.reference(
          [&](Ops& ops, Stream& stream) { ops.seal(stream, format, kv.seals(kv.full().here(), wanted.here())); });
      bench.ops().seal(bench.stream(), format, kv.seals(kv.full().there(), kv.packed().there()));
      kv.packed().download(bench.stream());
      for (uint64_t i = 0; i < wanted.size(); i++) {
        ASSERT_EQ(kv.packed().here()[i], wanted.here()[i]) << name_of(s, codec) << ", byte " << i;
      }
    }
  }
}

int64_t states_width(const AttendShape& s) { return int64_t{s.heads} * attn_state_floats(s.format.head_dim); }

// To the bit what the pages give that the packed ones stand for, and near to the reference's.
TEST_P(OpGridPacked, AttendReadsPackedPages) {
  for (const HeadGroups& s : kShapes) {
    for (const KvCodec codec : kPackers) {
      const AttendShape shape = s.attend(codec);
      OpBench bench(GetParam(), s.model());
      PackedKv kv(bench, shape.format, 700);
      BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
      q.fill(5);
      q.upload(bench.stream());
      for (const int tokens : {64, 128, 130, 512, 700}) {
        for (const int first : {0, 70, 200}) {
          SCOPED_TRACE(name_of(s, codec) + ", " + std::to_string(tokens) + " tokens from " + std::to_string(first));
          const auto count = (tokens + kSpanTokens - 1) / kSpanTokens;
          BenchMatrix got(bench.device(), DType::f32, count, states_width(shape));
          BenchMatrix same(bench.device(), DType::f32, count, states_width(shape));
          BenchMatrix wanted(bench.device(), DType::f32, count, states_width(shape));
          const auto tasks = [&](bool on_device, bool packed) {
            std::vector<SpanTask> list;
            for (const KvSpan& span : kv.spans(on_device, packed, tokens)) {
              list.push_back({span, 0, static_cast<int>(list.size()), std::min(first, span.tokens)});
            }
            return list;
          };
          bench.ops().attend(bench.stream(), q.there(), shape, tasks(true, true), got.there());
          bench.ops().attend(bench.stream(), q.there(), shape, tasks(true, false), same.there());
          bench.reference([&](Ops& ops, Stream& stream) {
            ops.attend(stream, q.here(), shape, tasks(false, true), wanted.here());
          });
          got.download(bench.stream());
          same.download(bench.stream());
          for (int i = 0; i < count; i++) {
            ASSERT_TRUE(same_bits(got.here(), i, same.here(), i)) << "span " << i;
            const float *state = got.row(i), *expected = wanted.row(i);
            const int d = s.head_dim;
            for (int h = 0; h < shape.heads; h++, state += d + 2, expected += d + 2) {
              if (expected[d + 1] == 0.0f) continue;
              for (int c = 0; c < d; c++) {
                ASSERT_NEAR(state[c] / state[d + 1], expected[c] / expected[d + 1], 2e-3) << c;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(OpGridPacked, AttendChunkReadsPackedPages) {
  struct Chunk {
    int first;
    int rows;
    int window;
  };
  for (const HeadGroups& s : kShapes) {
    for (const KvCodec codec : kPackers) {
      AttendShape shape = s.attend(codec);
      OpBench bench(GetParam(), s.model());
      for (const Chunk& c : {Chunk{128, 33, 0}, Chunk{500, 70, 0}, Chunk{192, 20, 100}}) {
        SCOPED_TRACE(name_of(s, codec) + ", rows from " + std::to_string(c.first));
        shape.window = c.window;
        const int tokens = c.first + c.rows;
        PackedKv kv(bench, shape.format, tokens);
        BenchMatrix q(bench.device(), DType::f32, c.rows, int64_t{shape.heads} * s.head_dim);
        BenchMatrix got(bench.device(), DType::f32, c.rows, states_width(shape));
        BenchMatrix same(bench.device(), DType::f32, c.rows, states_width(shape));
        q.fill(6);
        q.upload(bench.stream());
        for (const bool packed : {true, false}) {
          const auto spans = kv.spans(true, packed, tokens);
          for (size_t i = 0; i < spans.size(); i++) {
            bench.ops().attend_chunk(bench.stream(), q.there(), c.first, shape, {&spans[i], 1},
                                     (packed ? got : same).there(), i == 0);
          }
        }
        got.download(bench.stream());
        same.download(bench.stream());
        for (int r = 0; r < c.rows; r++) {
          ASSERT_TRUE(same_bits(got.here(), r, same.here(), r)) << "row " << r;
          ASSERT_GT(got.row(r)[s.head_dim + 1], 0.0f);
        }
      }
    }
  }
}

// Accumulated attention too: of a chunk, and of a decode step that has chosen every second granule.
TEST_P(OpGridPacked, SumsReadPackedPages) {
  constexpr int kTokens = 3 * kPageTokens + 20, kRows = 9, kFirst = kTokens - kRows;
  constexpr int kAll = (kTokens + kGranuleTokens - 1) / kGranuleTokens, kChosen = kAll / 2;
  for (const HeadGroups& s : kShapes) {
    if (GetParam().emulated && s.head_dim > 96) continue;
    for (const KvCodec codec : kPackers) {
      SCOPED_TRACE(name_of(s, codec));
      const AttendShape shape = s.attend(codec);
      OpBench bench(GetParam(), s.model());
      PackedKv kv(bench, shape.format, kTokens);
      BenchMatrix q(bench.device(), DType::f32, kRows, int64_t{shape.heads} * s.head_dim);
      BenchMatrix states(bench.device(), DType::f32, kRows, states_width(shape));
      BenchMatrix got(bench.device(), DType::f32, s.kv_heads, kAll), same(bench.device(), DType::f32, s.kv_heads, kAll);
      BenchMatrix wanted(bench.device(), DType::f32, s.kv_heads, kAll);
      BenchMatrix ids(bench.device(), DType::i32, s.kv_heads, kChosen);
      q.fill(6);
      q.upload(bench.stream());
      for (BenchMatrix* sums : {&got, &same, &wanted}) {
        for (int head = 0; head < s.kv_heads; head++) std::fill_n(sums->row(head), kAll, 0.25f);
        sums->upload(bench.stream());
      }
      for (int i = 0; i < s.kv_heads * kChosen; i++) {
        reinterpret_cast<int32_t*>(ids.here().row(i / kChosen))[i % kChosen] = 2 * (i % kChosen) + 1;
      }
      ids.upload(bench.stream());
      const auto expect_sums = [&] {
        got.download(bench.stream());
        same.download(bench.stream());
        for (int head = 0; head < s.kv_heads; head++) {
          ASSERT_TRUE(same_bits(got.here(), head, same.here(), head));
          for (int g = 0; g < kAll; g++) {
            ASSERT_EQ(std::isnan(got.row(head)[g]), std::isnan(wanted.row(head)[g])) << g;
            if (std::isnan(wanted.row(head)[g])) continue;
            ASSERT_NEAR(got.row(head)[g], wanted.row(head)[g], 3e-4 * wanted.row(head)[g] + 1e-6) << g;
          }
        }
      };
      bench.reference([&](Ops& ops, Stream& stream) {
        const auto spans = kv.spans(false, true, kTokens);
        ops.attend_chunk(stream, q.here(), kFirst, shape, spans, states.here(), true);
        ops.sum_attention(stream, q.here(), kFirst, shape, spans, states.here(), kGranuleTokens, wanted.here());
      });
      states.upload(bench.stream());
      for (const bool packed : {true, false}) {
        bench.ops().sum_attention(bench.stream(), q.there(), kFirst, shape, kv.spans(true, packed, kTokens),
                                  states.there(), kGranuleTokens, (packed ? got : same).there());
      }
      expect_sums();

      const View query = q.there().slice_rows(0, 1), state = states.there().slice_rows(0, 1);
      auto places = kv.every_second_granule(false, true);
      bench.reference([&](Ops& ops, Stream& stream) {
        const SelectedKv chosen{places.data(), kChosen, kGranuleTokens};
        ops.attend_selected(stream, q.here().slice_rows(0, 1), shape, chosen, states.here().slice_rows(0, 1));
        ops.sum_selected(stream, q.here().slice_rows(0, 1), shape, chosen, ids.here(), states.here().slice_rows(0, 1),
                         kTokens, wanted.here());
      });
      states.upload(bench.stream());
      BenchBytes table(bench.device(), places.size() * sizeof(GranulePlace));
      for (const bool packed : {true, false}) {
        places = kv.every_second_granule(true, packed);
        std::memcpy(table.here(), places.data(), table.size());
        table.upload(bench.stream());
        const SelectedKv chosen{reinterpret_cast<const GranulePlace*>(table.there()), kChosen, kGranuleTokens};
        bench.ops().sum_selected(bench.stream(), query, shape, chosen, ids.there(), state, kTokens,
                                 (packed ? got : same).there());
        bench.stream().synchronize();
      }
      expect_sums();
    }
  }
}

// A page that is packed although something in it is no number says so to whoever sees it, and to nobody else.
TEST_P(OpGridPacked, WhatIsNoNumberShows) {
  const HeadGroups s{2, 1, 64};
  for (const KvCodec codec : kPackers) {
    AttendShape shape = s.attend(codec);
    shape.window = 40;
    OpBench bench(GetParam(), s.model());
    PackedKv kv(bench, shape.format, 192);
    auto* halves = reinterpret_cast<uint16_t*>(kv.full().here() + shape.format.row_of_pages_bytes());
    halves[(kPageTokens + 7) * s.head_dim + 2] = 0x7c00;  // the value of position 71
    bench.reference([&](Ops& ops, Stream& stream) {
      ops.seal(stream, shape.format, kv.seals(kv.full().here(), kv.packed().here()));
    });
    kv.packed().upload(bench.stream());
    BenchMatrix q(bench.device(), DType::f32, 64, int64_t{shape.heads} * s.head_dim);
    BenchMatrix states(bench.device(), DType::f32, 64, states_width(shape));
    q.fill(6);
    q.upload(bench.stream());
    // Rows stand at 100 on; they see 40 positions, and the third page is open.
    const auto spans = kv.spans(true, true, 164);
    bench.ops().attend_chunk(bench.stream(), q.there(), 100, shape, spans, states.there(), true);
    states.download(bench.stream());
    for (int r = 0; r < 64; r++) {
      const bool sees = 100 + r - 39 <= 71;
      EXPECT_EQ(std::isnan(states.row(r)[0]), sees) << info(codec).name << ", row " << r;
      EXPECT_FALSE(std::isnan(states.row(r)[s.head_dim])) << "keys are numbers";
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridPacked);

}  // namespace
}  // namespace spillway

// What the published policies choose by, on every backend: bounds of pages (Quest) and accumulated attention (H2O).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/blocks.h"
#include "tests/kernels/head_groups.h"
#include "tests/support/op_bench.h"

namespace spillway {
namespace {

class OpGridPolicies : public OpGrid {};

constexpr HeadGroups kShapes[] = {{7, 2, 64},  {1, 3, 64},  {2, 1, 80}, {3, 2, 32},
                                  {8, 1, 128}, {1, 2, 256}, {5, 1, 200}};
std::string name_of(const HeadGroups& s) {
  return std::to_string(s.group) + " x " + std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim);
}
int64_t states_width(const AttendShape& s) { return int64_t{s.heads} * attn_state_floats(s.format.head_dim); }

// Keys and values in pages, page rows one after another; what no token fills is no number.
class Pages {
 public:
  Pages(OpBench& bench, const KvFormat& format, int tokens)
      : format_(format), tokens_(tokens), pages(bench.device(), rows() * format.row_of_pages_bytes()) {
    std::memset(pages.here(), 0xff, pages.size());
    BenchMatrix k(bench.device(), DType::f32, tokens, int64_t{format.kv_heads} * format.head_dim);
    k.fill(21);
    std::vector<AppendRun> runs;
    for (int t = 0; t < tokens; t += kPageTokens) {
      runs.push_back({row(false, t / kPageTokens), 0, t, std::min(kPageTokens, tokens - t)});
    }
    bench.reference([&](Ops& ops, Stream& stream) { ops.append(stream, k.here(), k.here(), format, runs); });
    pages.upload(bench.stream());
  }
  int rows() const { return (tokens_ + kPageTokens - 1) / kPageTokens; }
  std::byte* row(bool there, int row) {
    return (there ? pages.there() : pages.here()) + row * format_.row_of_pages_bytes();
  }
  float key(int head, int token, int channel) {
    uint16_t half;
    std::memcpy(&half,
                row(false, token / kPageTokens) + head * format_.page_bytes() +
                    token % kPageTokens * format_.token_bytes() + 2 * channel,
                sizeof half);
    return f16_to_f32(half);
  }
  std::vector<KvSpan> spans(bool there, int tokens) {
    std::vector<KvSpan> all;
    for (int first = 0; first < tokens; first += kSpanTokens) {
      KvSpan span{.rows = {}, .first_position = first, .tokens = std::min(kSpanTokens, tokens - first)};
      for (int t = 0; t < span.tokens; t += kPageTokens)
        span.rows[t / kPageTokens] = row(there, (first + t) / kPageTokens);
      all.push_back(span);
    }
    return all;
  }

 private:
  KvFormat format_;
  int tokens_;

 public:
  BenchBytes pages;
};

// ---- bounds

class Bounds {
 public:
  Bounds(OpBench& bench, const KvFormat& kv, int rows, int granule)
      : format{kv.kv_heads, kv.head_dim, granule}, bytes(bench.device(), rows * format.row_bytes()) {
    std::memset(bytes.here(), 0xff, bytes.size());
    bytes.upload(bench.stream());
  }
  std::byte* row(bool there, int row) { return (there ? bytes.there() : bytes.here()) + row * format.row_bytes(); }
  float at(int head, int granule, bool largest, int channel) {
    uint16_t half;
    std::memcpy(&half,
                row(false, granule / format.granules()) + head * format.page_bytes() +
                    static_cast<uint64_t>(granule % format.granules()) * format.granule_bytes() +
                    2 * ((largest ? format.head_dim : 0) + channel),
                sizeof half);
    return f16_to_f32(half);
  }
  KeyBoundsFormat format;
  BenchBytes bytes;
};

// Exactly the smallest and the largest, whatever runs the tokens came in; of the open granule of those there are.
TEST_P(OpGridPolicies, BoundsAreExact) {
  constexpr int kTokens = 150;
  std::mt19937 random(4);
  for (const HeadGroups& s : kShapes) {
    const KvFormat format = s.attend().format;
    OpBench bench(GetParam(), s.model());
    Pages pages(bench, format, kTokens);
    for (const int granule : {4, 16, 64}) {
      SCOPED_TRACE(name_of(s) + " by " + std::to_string(granule));
      Bounds bounds(bench, format, pages.rows(), granule);
      for (int first = 0; first < kTokens;) {
        const int in_page = first % kPageTokens;
        const int count = std::min({kTokens - first, kPageTokens - in_page, 1 + static_cast<int>(random() % 40)});
        const PartialKeyRun run{pages.row(true, first / kPageTokens), bounds.row(true, first / kPageTokens), in_page,
                                count};
        bench.ops().key_bounds(bench.stream(), format, granule, {&run, 1});
        first += count;
      }
      bounds.bytes.download(bench.stream());
      for (int head = 0; head < s.kv_heads; head++) {
        for (int g = 0; g * granule < kTokens; g++) {
          for (int c = 0; c < s.head_dim; c += 7) {
            float smallest = pages.key(head, g * granule, c), largest = smallest;
            for (int t = g * granule; t < std::min(kTokens, (g + 1) * granule); t++) {
              smallest = std::min(smallest, pages.key(head, t, c));
              largest = std::max(largest, pages.key(head, t, c));
            }
            ASSERT_EQ(bounds.at(head, g, false, c), smallest) << g << ", " << c;
            ASSERT_EQ(bounds.at(head, g, true, c), largest) << g << ", " << c;
          }
        }
      }
    }
  }
}

TEST_P(OpGridPolicies, BoundScoresMatchTheReference) {
  for (const HeadGroups& s : kShapes) {
    const AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model());
    Pages pages(bench, shape.format, 700);
    BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
    q.fill(5, 0.5);
    q.upload(bench.stream());
    for (const int granule : {4, 16, 64}) {
      Bounds bounds(bench, shape.format, pages.rows(), granule);
      for (const int tokens : {1, 16, 65, 200, 700}) {
        if (GetParam().emulated && tokens == 700 && s.head_dim > 64) continue;
        SCOPED_TRACE(name_of(s) + ", " + std::to_string(tokens) + " tokens by " + std::to_string(granule));
        std::vector<const std::byte*> there, here;
        std::vector<PartialKeyRun> runs;
        for (int row = 0; row * kPageTokens < tokens; row++) {
          there.push_back(bounds.row(true, row));
          here.push_back(bounds.row(false, row));
          runs.push_back({pages.row(false, row), bounds.row(false, row), 0, std::min(kPageTokens, tokens - row * 64)});
        }
        const int64_t granules = (tokens + granule - 1) / granule;
        BenchMatrix got(bench.device(), DType::f32, s.kv_heads, granules, 4, 8);
        BenchMatrix wanted(bench.device(), DType::f32, s.kv_heads, granules);
        BenchMatrix scores(bench.device(), DType::f32, shape.heads, granules, 0, 16);
        bench.reference([&](Ops& ops, Stream& stream) {
          ops.key_bounds(stream, shape.format, granule, runs);
          ops.score_bounds(stream, q.here(), shape, here, tokens, granule, scores.here(), wanted.here());
        });
        bounds.bytes.upload(bench.stream());
        bench.ops().score_bounds(bench.stream(), q.there(), shape, there, tokens, granule, scores.there(), got.there());
        got.download(bench.stream());
        for (int head = 0; head < s.kv_heads; head++) {
          double sum = 0;
          for (int64_t g = 0; g < granules; g++) {
            ASSERT_NEAR(got.row(head)[g], wanted.row(head)[g], 2e-4 * wanted.row(head)[g] + 1e-7) << g;
            sum += got.row(head)[g];
          }
          ASSERT_NEAR(sum, s.group, 1e-5 * s.group);
        }
      }
    }
  }
}

// No key's score is above its granule's bound: what makes Quest's choice one. Two granules, one head.
TEST_P(OpGridPolicies, ABoundIsAboveEveryKey) {
  const HeadGroups s{1, 1, 32};
  const AttendShape shape = s.attend();
  OpBench bench(GetParam(), s.model());
  Pages pages(bench, shape.format, 32);
  BenchMatrix q(bench.device(), DType::f32, 1, 32), scores(bench.device(), DType::f32, 1, 2);
  BenchMatrix weights(bench.device(), DType::f32, 1, 2);
  q.fill(6);
  q.upload(bench.stream());
  Bounds bounds(bench, shape.format, 1, 16);
  const PartialKeyRun run{pages.row(true, 0), bounds.row(true, 0), 0, 32};
  const std::byte* row = bounds.row(true, 0);
  bench.ops().key_bounds(bench.stream(), shape.format, 16, {&run, 1});
  bench.ops().score_bounds(bench.stream(), q.there(), shape, {&row, 1}, 32, 16, scores.there(), weights.there());
  weights.download(bench.stream());
  double bound[2] = {}, most[2] = {-1e9, -1e9};
  for (int t = 0; t < 32; t++) {
    double score = 0;
    for (int c = 0; c < 32; c++) score += double{q.row(0)[c]} * pages.key(0, t, c);
    most[t / 16] = std::max(most[t / 16], shape.scale * score);
  }
  for (int g = 0; g < 2; g++) {
    for (int c = 0; c < 32; c++) {
      double top = -1e9;
      for (int t = 16 * g; t < 16 * g + 16; t++) top = std::max(top, double{q.row(0)[c]} * pages.key(0, t, c));
      bound[g] += shape.scale * top;
    }
    EXPECT_GT(bound[g], most[g]);
  }
  EXPECT_NEAR(std::log(weights.row(0)[0] / weights.row(0)[1]), bound[0] - bound[1], 1e-4);
}

// ---- accumulated attention

// A chunk's, over the spans in one call or in several, into sums that older granules have and new ones do not.
TEST_P(OpGridPolicies, SumsOfAChunkMatchTheReference) {
  for (const HeadGroups& s : kShapes) {
    AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model(), 40);
    const int most = GetParam().emulated ? 150 : 700;
    Pages pages(bench, shape.format, most);
    struct Chunk {
      int first, rows, window;
    };
    for (const auto& [first, rows, window] :
         {Chunk{0, 33, 0}, {97, 40, 0}, {most - 5, 5, 0}, {66, 1, 0}, {97, 40, 21}, {0, 33, 1}, {66, 20, 100}}) {
      for (const int granule : {1, 4, 64}) {
        if (GetParam().emulated && granule == 1 && s.head_dim > 64) continue;
        if (window > 0 && (granule == 64 || (GetParam().emulated && s.head_dim > 64))) continue;
        SCOPED_TRACE(name_of(s) + ", " + std::to_string(rows) + " rows from " + std::to_string(first) + " by " +
                     std::to_string(granule) + ", window " + std::to_string(window));
        shape.window = window;
        const int tokens = first + rows;
        BenchMatrix q(bench.device(), DType::f32, rows, int64_t{shape.heads} * s.head_dim, 0, 16);
        BenchMatrix states(bench.device(), DType::f32, rows, states_width(shape));
        q.fill(5);
        q.upload(bench.stream());
        bench.reference([&](Ops& ops, Stream& stream) {
          ops.attend_chunk(stream, q.here(), first, shape, pages.spans(false, tokens), states.here(), true);
        });
        states.upload(bench.stream());
        const int64_t granules = (tokens + granule - 1) / granule;
        BenchMatrix got(bench.device(), DType::f32, s.kv_heads, granules, 4, 8);
        BenchMatrix wanted(bench.device(), DType::f32, s.kv_heads, granules);
        for (int head = 0; head < s.kv_heads; head++) {
          for (int64_t g = 0; g < granules; g++) {
            const bool old = g * granule < first;
            got.row(head)[g] = wanted.row(head)[g] = old ? 0.25f * static_cast<float>(g % 5) : std::nanf("");
          }
        }
        got.upload(bench.stream());
        bench.reference([&](Ops& ops, Stream& stream) {
          ops.sum_attention(stream, q.here(), first, shape, pages.spans(false, tokens), states.here(), granule,
                            wanted.here());
        });
        for (const KvSpan& span : pages.spans(true, tokens)) {
          bench.ops().sum_attention(bench.stream(), q.there(), first, shape, {&span, 1}, states.there(), granule,
                                    got.there());
        }
        got.download(bench.stream());
        for (int head = 0; head < s.kv_heads; head++) {
          double sum = 0;
          for (int64_t g = 0; g < granules; g++) {
            ASSERT_NEAR(got.row(head)[g], wanted.row(head)[g], 1e-4 * wanted.row(head)[g] + 1e-6) << g;
            sum += got.row(head)[g] - (g * granule < first ? 0.25 * static_cast<double>(g % 5) : 0);
          }
          ASSERT_NEAR(sum, rows * s.group, 1e-4 * rows * s.group) << "each query has a weight of one";
        }
      }
    }
  }
}

// A decode step's, of granules in their pages; all that it has not chosen is gone.
TEST_P(OpGridPolicies, SumsOfAStepMatchTheReference) {
  for (const HeadGroups& s : kShapes) {
    const AttendShape shape = s.attend();
    OpBench bench(GetParam(), s.model());
    for (const int tokens : {77, 601}) {
      Pages pages(bench, shape.format, tokens);
      for (const int granule : {1, 4}) {
        if (GetParam().emulated && tokens > 77 && (s.head_dim > 64 || granule == 1)) continue;
        SCOPED_TRACE(name_of(s) + ", " + std::to_string(tokens) + " tokens by " + std::to_string(granule));
        const int granules = (tokens + granule - 1) / granule, count = granules / 2 + 1;
        BenchMatrix q(bench.device(), DType::f32, 1, int64_t{shape.heads} * s.head_dim);
        BenchMatrix ids(bench.device(), DType::i32, s.kv_heads, count, 0, 12);
        BenchBytes there(bench.device(), s.kv_heads * count * sizeof(GranulePlace));
        std::vector<GranulePlace> here(static_cast<size_t>(s.kv_heads * count));
        q.fill(5);
        q.upload(bench.stream());
        const int fewer = count - 3;  // of the last head
        for (int head = 0; head < s.kv_heads; head++) {
          const int own = head + 1 == s.kv_heads ? fewer : count;
          for (int i = 0; i < count; i++) {
            const int id = i + 1 == own ? granules - 1 : std::min(granules - 2, 2 * i + head % 2);
            reinterpret_cast<int32_t*>(ids.here().row(head))[i] = i < own ? id : kNoGranule;
            const int at = head * count + i;
            if (i >= own) continue;
            const auto place = [&](bool on) {
              const std::byte* page = pages.row(on, id * granule / kPageTokens) + head * shape.format.page_bytes();
              const std::byte* key = page + id * granule % kPageTokens * shape.format.token_bytes();
              return GranulePlace{key, key + kPageTokens * shape.format.token_bytes(),
                                  std::min(granule, tokens - id * granule), 0};
            };
            here[static_cast<size_t>(at)] = place(false);
            reinterpret_cast<GranulePlace*>(there.here())[at] = place(true);
          }
          for (int i = own; i < count; i++) reinterpret_cast<GranulePlace*>(there.here())[head * count + i] = {};
        }
        ids.upload(bench.stream());
        there.upload(bench.stream());
        const SelectedKv kv{here.data(), count, granule};
        BenchMatrix states(bench.device(), DType::f32, kv.states(), states_width(shape));
        BenchMatrix got(bench.device(), DType::f32, s.kv_heads, granules, 4, 8);
        BenchMatrix wanted(bench.device(), DType::f32, s.kv_heads, granules);
        for (int head = 0; head < s.kv_heads; head++) {
          for (int g = 0; g < granules; g++) got.row(head)[g] = wanted.row(head)[g] = 0.5f;
        }
        got.upload(bench.stream());
        bench.reference([&](Ops& ops, Stream& stream) {
          ops.attend_selected(stream, q.here(), shape, kv, states.here());
          ops.sum_selected(stream, q.here(), shape, kv, ids.here(), states.here(), tokens, wanted.here());
        });
        states.upload(bench.stream());
        bench.ops().sum_selected(bench.stream(), q.there(), shape,
                                 {reinterpret_cast<const GranulePlace*>(there.there()), count, granule}, ids.there(),
                                 states.there(), tokens, got.there());
        got.download(bench.stream());
        for (int head = 0; head < s.kv_heads; head++) {
          int kept = 0;
          for (int g = 0; g < granules; g++) {
            ASSERT_EQ(std::isnan(got.row(head)[g]), std::isnan(wanted.row(head)[g])) << head << ", " << g;
            if (std::isnan(wanted.row(head)[g])) continue;
            kept++;
            ASSERT_NEAR(got.row(head)[g], wanted.row(head)[g], 1e-4 * wanted.row(head)[g] + 1e-6) << head << ", " << g;
          }
          EXPECT_LE(kept, head + 1 == s.kv_heads ? fewer : count);
          // A granule that begins with the step's own token had nothing before.
          const float newest = wanted.row(head)[granules - 1];
          EXPECT_EQ(newest < 0.5f, (tokens - 1) % granule == 0) << newest;
        }
      }
    }
  }
}

SPILLWAY_FOR_EVERY_BACKEND(OpGridPolicies);

}  // namespace
}  // namespace spillway

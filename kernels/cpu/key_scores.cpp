#include "kernels/cpu/key_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/selection.h"

namespace spillway {
namespace {

constexpr int64_t kPagesPerTask = 8;

// Where a row of the scratch has what (score_columns).
struct Columns {
  explicit Columns(const ScoreKeysCall& call)
      : pages(static_cast<int64_t>(call.rows.size())), scores(call.format.rank), shares(scores + pages * kPageTokens) {}
  int64_t scores_of(int64_t page) const { return scores + page * kPageTokens; }
  int64_t share_of(int64_t page) const { return shares + 2 * page; }

  int64_t pages;
  int64_t scores;
  int64_t shares;  // of each page the largest score, later what its weights are multiplied by; and their sum
};

int tokens_of(const ScoreKeysCall& call, int64_t page) {
  return static_cast<int>(std::min<int64_t>(kPageTokens, call.tokens - page * kPageTokens));
}

// The partial queries of a KV head's group.
void project(const CpuKernels& kernels, const ScoreKeysCall& call, int64_t kv_head, float* worker) {
  const int head_dim = call.shape.format.head_dim, group = call.shape.heads / call.format.kv_heads;
  FloatProduct product{};
  product.dtype = DType::f32;
  product.weight = call.basis.queries.row(kv_head * call.format.rank);
  product.weight_stride = call.basis.queries.stride;
  product.n = call.format.rank;
  product.k = head_dim;
  product.x = call.q.f32() + kv_head * group * head_dim;
  product.x_stride = static_cast<uint64_t>(head_dim) * sizeof(float);
  product.m = group;
  product.out = call.scratch.f32(kv_head * group);
  product.out_stride = call.scratch.stride;
  product.scratch = worker;
  float_product(kernels, product);
}

KeyScores key_scores(const ScoreKeysCall& call, int64_t page, int64_t kv_head) {
  const Columns columns(call);
  const int group = call.shape.heads / call.format.kv_heads;
  return {.page = call.rows[page] + kv_head * call.format.page_bytes(),
          .rank = call.format.rank,
          .bits = call.format.bits,
          .tokens = tokens_of(call, page),
          .heads = group,
          .scratch = call.scratch.f32(kv_head * group),
          .stride = call.scratch.stride,
          .scores = columns.scores_of(page),
          .largest = columns.share_of(page),
          .scale = call.shape.scale};
}

GranuleSums granule_sums(const ScoreKeysCall& call, int64_t page, int64_t kv_head) {
  const Columns columns(call);
  const int group = call.shape.heads / call.format.kv_heads;
  return {.scratch = call.scratch.f32(kv_head * group),
          .stride = call.scratch.stride,
          .scores = columns.scores_of(page),
          .factor = columns.share_of(page),
          .heads = group,
          .tokens = tokens_of(call, page),
          .granule_tokens = call.granule_tokens,
          .out = call.weights.f32(kv_head) + page * (kPageTokens / call.granule_tokens)};
}

// What the weights of a page are multiplied by to be shares of the softmax over all pages.
void share_softmax(float* shares, int64_t pages) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < pages; i++) largest = std::max(largest, shares[2 * i]);
  float total = 0.0f;
  for (int64_t i = 0; i < pages; i++) {
    shares[2 * i] = std::exp(shares[2 * i] - largest);
    total += shares[2 * i] * shares[2 * i + 1];
  }
  for (int64_t i = 0; i < pages; i++) shares[2 * i] /= total;
}

// Calls visit(page, head) for all pages of all KV heads, several pages to a task.
template <typename Visit>
void each_page(Team& team, const ScoreKeysCall& call, const Visit& visit) {
  const auto pages = static_cast<int64_t>(call.rows.size());
  const int64_t pieces = (pages + kPagesPerTask - 1) / kPagesPerTask;
  team.run(pieces * call.format.kv_heads, [&](int64_t task, int) {
    const int64_t first = task % pieces * kPagesPerTask;
    for (int64_t page = first; page < std::min(pages, first + kPagesPerTask); page++) {
      visit(page, task / pieces);
    }
  });
}

}  // namespace

void run_score_keys(const CpuKernels& kernels, Team& team, const ScoreKeysCall& call, const WorkerScratch& scratch) {
  if (call.tokens == 0) return;
  const Columns columns(call);
  team.run(call.format.kv_heads,
           [&](int64_t head, int worker) { project(kernels, call, head, scratch.floats(worker)); });
  each_page(team, call, [&](int64_t page, int64_t head) { kernels.score_page(key_scores(call, page, head)); });
  team.run(call.shape.heads,
           [&](int64_t head, int) { share_softmax(call.scratch.f32(head) + columns.shares, columns.pages); });
  each_page(team, call, [&](int64_t page, int64_t head) { kernels.sum_granules(granule_sums(call, page, head)); });
}

}  // namespace spillway

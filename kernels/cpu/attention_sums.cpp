#include "kernels/cpu/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/selection.h"

namespace spillway {
namespace {

constexpr int kRows = 16;  // of a chunk, at once

// The maximum and the sum of one head's softmax over all of the rows [begin, end) of states.
struct Softmax {
  float most = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;

  Softmax(const View& states, int64_t begin, int64_t end, int64_t head, int head_dim) {
    const auto state = [&](int64_t row) { return states.f32(row) + head * attn_state_floats(head_dim) + head_dim; };
    for (int64_t row = begin; row < end; row++) most = std::max(most, state(row)[0]);
    for (int64_t row = begin; row < end; row++) {
      if (state(row)[1] > 0) sum += state(row)[1] * std::exp(state(row)[0] - most);
    }
  }
  float weight(float score) const { return std::exp(score - most) / sum; }
};

// scores [rows x tokens] = queries . keys^T, without the scale.
struct Products {
  const std::byte* keys;
  int64_t tokens;
  const float* q;
  uint64_t q_stride;
  int64_t rows;
};
void multiply(const CpuKernels& kernels, const KvFormat& format, const Products& p, float* scores, float* scratch) {
  FloatProduct product{};
  product.dtype = DType::f16;
  product.weight = p.keys;
  product.weight_stride = format.token_bytes();
  product.n = p.tokens;
  product.k = format.head_dim;
  product.x = p.q;
  product.x_stride = p.q_stride;
  product.m = p.rows;
  product.out = scores;
  product.out_stride = kPageTokens * sizeof(float);
  product.scratch = scratch;
  float_product(kernels, product);
}

}  // namespace

void sum_page(const CpuKernels& kernels, const SumAttentionCall& call, const KvSpan& span, int page, int kv_head,
              float* scratch) {
  const KvFormat& format = call.shape.format;
  const int group = call.shape.heads / format.kv_heads;
  const int first = span.first_position + page * kPageTokens;
  const int tokens = std::min(kPageTokens, span.tokens - page * kPageTokens);
  const std::byte* keys = span.rows[page] + kv_head * format.page_bytes();
  float columns[kPageTokens] = {}, scores[kRows * kPageTokens];
  for (int64_t row = std::max(0, first - call.first_position); row < call.q.rows; row += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, call.q.rows - row);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
      const float* q = call.q.f32(row) + head * format.head_dim;
      multiply(kernels, format, {keys, tokens, q, call.q.stride, rows}, scores, scratch);
      for (int64_t i = 0; i < rows; i++) {
        const Softmax all(call.states, row + i, row + i + 1, head, format.head_dim);
        const auto seen = std::min<int64_t>(tokens, call.first_position + row + i + 1 - first);
        for (int64_t t = 0; t < seen; t++) columns[t] += all.weight(call.shape.scale * scores[i * kPageTokens + t]);
      }
    }
  }
  float* sums = call.sums.f32(kv_head);
  for (int t = 0; t < tokens; t += call.granule_tokens) {
    float sum = 0.0f;
    for (int i = t; i < std::min(tokens, t + call.granule_tokens); i++) sum += columns[i];
    float& to = sums[(first + t) / call.granule_tokens];
    to = first + t >= call.first_position ? sum : to + sum;
  }
}

void sum_head(const CpuKernels& kernels, const SumSelectedCall& call, int kv_head, float* scratch) {
  const KvFormat& format = call.shape.format;
  const int group = call.shape.heads / format.kv_heads;
  std::vector<Softmax> heads;
  for (int64_t head = int64_t{kv_head} * group; head < (kv_head + 1) * group; head++) {
    heads.emplace_back(call.states, 0, call.kv.states(), head, format.head_dim);
  }
  const GranulePlace* places = call.kv.places + int64_t{kv_head} * call.kv.granules;
  const auto* ids = reinterpret_cast<const int32_t*>(call.ids.row(kv_head));
  float* sums = call.sums.f32(kv_head);
  const float* q = call.q.f32() + int64_t{kv_head} * group * format.head_dim;
  std::vector<float> scores(static_cast<size_t>(group) * kPageTokens);
  int64_t granule = 0;
  const auto let_go = [&](int64_t end) { std::fill(sums + granule, sums + end, std::nanf("")); };
  for (int i = 0; i < call.kv.granules && places[i].tokens > 0; i++) {
    let_go(ids[i]);
    multiply(kernels, format,
             {places[i].keys, places[i].tokens, q, static_cast<uint64_t>(format.head_dim) * sizeof(float), group},
             scores.data(), scratch);
    float sum = 0.0f;
    for (int head = 0; head < group; head++) {
      for (int t = 0; t < places[i].tokens; t++) {
        sum += heads[static_cast<size_t>(head)].weight(call.shape.scale *
                                                       scores[static_cast<size_t>(head) * kPageTokens + t]);
      }
    }
    sums[ids[i]] = ids[i] * call.kv.granule_tokens == call.tokens - 1 ? sum : sums[ids[i]] + sum;
    granule = ids[i] + 1;
  }
  let_go(call.sums.cols);
}

}  // namespace spillway

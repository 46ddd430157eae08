#include "kernels/cpu/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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
  // What the weights exp(score - largest) are multiplied by (CpuKernels::softmax).
  float factor(float largest) const { return std::exp(largest - most) / sum; }
};

// scores [rows x tokens] = queries . keys^T, without the scale.
struct Products {
  const std::byte* keys;
  int64_t tokens;
  const float* q;
  uint64_t q_stride;
  int64_t rows;
  int64_t row_floats;  // from one row of scores to the next
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
  product.out_stride = static_cast<uint64_t>(p.row_floats) * sizeof(float);
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
  alignas(64) std::byte halves[kPageTokens * kMostHeadDim * 2];
  if (span.is_packed(page)) {
    const PackedPage packed = format.packed_page();
    const std::byte* of_head = span.rows[page] + static_cast<int64_t>(kv_head) * packed.bytes();
    kernels.unpack_keys(packed, of_head, of_head, tokens, halves);
    keys = halves;
  }
  float columns[kPageTokens] = {}, scores[kRows * kPageTokens];
  // A row at position p sees (p - window, p].
  const int64_t window = call.shape.window == 0 ? INT32_MAX : call.shape.window;
  const int64_t end = std::min(call.q.rows, first + tokens - 1 + window - call.first_position);
  for (int64_t row = std::max(0, first - call.first_position); row < end; row += kRows) {
    const int64_t rows = std::min<int64_t>(kRows, end - row);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
      const float* q = call.q.f32(row) + head * format.head_dim;
      multiply(kernels, format, {keys, tokens, q, call.q.stride, rows, kPageTokens}, scores, scratch);
      for (int64_t i = 0; i < rows; i++) {
        const int64_t own = call.first_position + row + i - first;
        const int64_t begin = std::max<int64_t>(0, own + 1 - window), past = std::min<int64_t>(tokens, own + 1);
        float* weights = scores + i * kPageTokens + begin;
        float largest = 0.0f, sum = 0.0f;
        kernels.softmax(weights, static_cast<int>(past - begin), call.shape.scale, &largest, &sum);
        const float factor = Softmax(call.states, row + i, row + i + 1, head, format.head_dim).factor(largest);
        for (int64_t t = begin; t < past; t++) columns[t] += factor * weights[t - begin];
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
  const int64_t group = call.shape.heads / format.kv_heads, first_head = kv_head * group;
  const GranulePlace* places = call.kv.places + int64_t{kv_head} * call.kv.granules;
  const float* q = call.q.f32() + first_head * format.head_dim;
  const uint64_t q_stride = static_cast<uint64_t>(format.head_dim) * sizeof(float);
  const int64_t stride = int64_t{call.kv.granules} * call.kv.granule_tokens;
  std::vector<float> weights(static_cast<size_t>(group * stride)), factors;
  const PackedPage packed = format.packed_page();
  alignas(64) std::byte halves[kPageTokens * kMostHeadDim * 2];
  int granules = 0, tokens = 0;
  for (; granules < call.kv.granules && places[granules].tokens > 0; granules++) {
    const GranulePlace& place = places[granules];
    const std::byte* keys = place.keys;
    if (place.packed != 0) {
      kernels.unpack_keys(packed, place.values, place.keys - packed.header_bytes, place.tokens, halves);
      keys = halves;
    }
    multiply(kernels, format, {keys, place.tokens, q, q_stride, group, stride}, weights.data() + tokens, scratch);
    tokens += place.tokens;
  }
  for (int64_t head = 0; head < group; head++) {
    const Softmax all(call.states, 0, call.kv.states(), first_head + head, format.head_dim);
    float largest = 0.0f, sum = 0.0f;
    kernels.softmax(weights.data() + head * stride, tokens, call.shape.scale, &largest, &sum);
    factors.push_back(all.factor(largest));
  }
  const auto* ids = reinterpret_cast<const int32_t*>(call.ids.row(kv_head));
  float* sums = call.sums.f32(kv_head);
  int64_t next = 0;  // the granule after those that have their sum
  const auto let_go = [&](int64_t end) { std::fill(sums + next, sums + end, std::nanf("")); };
  for (int i = 0, token = 0; i < granules; token += places[i++].tokens) {
    let_go(ids[i]);
    float sum = 0.0f;
    for (int64_t head = 0; head < group; head++) {
      const float* own = weights.data() + head * stride + token;
      sum += factors[static_cast<size_t>(head)] * std::accumulate(own, own + places[i].tokens, 0.0f);
    }
    sums[ids[i]] = ids[i] * call.kv.granule_tokens == call.tokens - 1 ? sum : sums[ids[i]] + sum;
    next = ids[i] + 1;
  }
  let_go(call.sums.cols);
}

}  // namespace spillway

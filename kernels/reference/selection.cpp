#include "kernels/reference/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/kv_codec.h"
#include "kernels/reference/dequantize.h"

namespace spillway::reference {
namespace {

// Number j of a token, a half or a code.
void put_number(const PartialKeyFormat& format, int token, int j, uint32_t number, std::byte* page) {
  const int bit = j * format.bits;
  uint32_t word;
  std::memcpy(&word, page + format.word_at(bit / 32, token), sizeof word);
  const uint32_t mask = ((1u << format.bits) - 1) << bit % 32;
  word = (word & ~mask) | number << bit % 32;
  std::memcpy(page + format.word_at(bit / 32, token), &word, sizeof word);
}

uint32_t number_at(const PartialKeyFormat& format, const std::byte* page, int token, int j) {
  const int bit = j * format.bits;
  uint32_t word;
  std::memcpy(&word, page + format.word_at(bit / 32, token), sizeof word);
  return word >> bit % 32 & ((1u << format.bits) - 1);
}

void store_partial_key(const PartialKeyFormat& format, const std::vector<float>& key, int token, std::byte* page) {
  if (format.bits == 16) {
    for (int j = 0; j < format.rank; j++) put_number(format, token, j, f32_to_f16(key[j]), page);
    return;
  }
  float smallest = std::numeric_limits<float>::infinity(), largest = -smallest;
  bool finite = true;
  for (const float x : key) {
    finite = finite && fits_f16(x);
    smallest = std::min(smallest, x);
    largest = std::max(largest, x);
  }
  const GroupScale group = group_scale(smallest, largest, finite, format.bits);
  std::memcpy(page + format.scale_at(token), &group, sizeof group);
  for (int j = 0; j < format.rank; j++) {
    put_number(format, token, j, code_of(key[j], f16_to_f32(group.minimum), inverse_of(group), format.bits), page);
  }
}

// scores [tokens] of one query head.
void score_head(const float* q, const AttendShape& shape, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                std::span<const std::byte* const> rows, int kv_head, std::vector<double>& scores) {
  const auto rank = static_cast<size_t>(format.rank);
  std::vector<double> query(rank, 0.0), key(rank);
  for (size_t j = 0; j < rank; j++) {
    const float* direction = basis.queries.f32(kv_head * format.rank + static_cast<int64_t>(j));
    for (int i = 0; i < shape.format.head_dim; i++) query[j] += static_cast<double>(q[i]) * direction[i];
  }
  for (size_t t = 0; t < scores.size(); t++) {
    load_partial_key(format, rows[t / kPageTokens], kv_head, static_cast<int>(t % kPageTokens), key.data());
    scores[t] = shape.scale * std::inner_product(query.begin(), query.end(), key.begin(), 0.0);
  }
}

void softmax(std::vector<double>& scores) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
  for (const double score : scores) largest = std::max(largest, score);
  for (double& score : scores) sum += score = std::exp(score - largest);
  for (double& score : scores) score /= sum;
}

}  // namespace

void partial_keys(const KvFormat& kv, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                  const PartialKeyRun& run) {
  const auto head_dim = static_cast<size_t>(kv.head_dim);
  std::vector<double> key(head_dim);
  std::vector<float> partial(static_cast<size_t>(format.rank));
  for (int head = 0; head < format.kv_heads; head++) {
    for (int token = run.first_token; token < run.first_token + run.count; token++) {
      load_row(kv.dtype, run.page_row + head * kv.page_bytes() + token * kv.token_bytes(), kv.head_dim, key.data());
      for (size_t i = 0; i < head_dim; i++) key[i] -= basis.mean.f32(head)[i];
      for (int j = 0; j < format.rank; j++) {
        const float* direction = basis.keys.f32(head * format.rank + j);
        partial[j] = static_cast<float>(std::inner_product(key.begin(), key.end(), direction, 0.0));
      }
      store_partial_key(format, partial, token, run.partial + head * format.page_bytes());
    }
  }
}

void load_partial_key(const PartialKeyFormat& format, const std::byte* row, int kv_head, int token, double* values) {
  const std::byte* page = row + kv_head * format.page_bytes();
  GroupScale group{};
  if (format.bits < 16) std::memcpy(&group, page + format.scale_at(token), sizeof group);
  for (int j = 0; j < format.rank; j++) {
    const uint32_t number = number_at(format, page, token, j);
    values[j] = format.bits == 16 ? f16_to_f32(static_cast<uint16_t>(number))
                                  : static_cast<double>(f16_to_f32(group.minimum)) +
                                        number * static_cast<double>(f16_to_f32(group.scale));
  }
}

void score_keys(const float* q, const AttendShape& shape, const PartialKeyFormat& format, const PartialKeyBasis& basis,
                std::span<const std::byte* const> rows, int tokens, int granule_tokens, const View& weights) {
  const int group = shape.heads / format.kv_heads;
  std::vector<double> scores(static_cast<size_t>(tokens));
  for (int kv_head = 0; kv_head < format.kv_heads; kv_head++) {
    std::vector<double> sums(static_cast<size_t>(weights.cols), 0.0);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
      score_head(q + static_cast<int64_t>(head) * shape.format.head_dim, shape, format, basis, rows, kv_head, scores);
      softmax(scores);
      for (int t = 0; t < tokens; t++) sums[t / granule_tokens] += scores[t];
    }
    std::copy(sums.begin(), sums.end(), weights.f32(kv_head));
  }
}

void choose_granules(const float* weights, const GranuleChoice& choice, int32_t* ids) {
  std::vector<int32_t> order(static_cast<size_t>(choice.granules));
  std::iota(order.begin(), order.end(), 0);
  const auto forced = [&](int32_t id) { return id < choice.first || id >= choice.granules - choice.last; };
  const auto weight = [&](int32_t id) {
    return id >= choice.scored || std::isnan(weights[id]) ? 0.0 : static_cast<double>(weights[id]);
  };
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    if (forced(a) != forced(b)) return forced(a);
    if (forced(a)) return a < b;
    if (std::isnan(weights[a]) != std::isnan(weights[b])) return std::isnan(weights[b]);
    return std::isnan(weights[a]) || weights[a] == weights[b] ? a < b : weights[a] > weights[b];
  });
  order.resize(static_cast<size_t>(choice.count));
  if (choice.adapts()) {
    double most = 0;
    for (int32_t id = 0; id < choice.scored; id++) most = std::max(most, weight(id));
    std::vector<int32_t> kept;
    double before = 0;  // weights of those in any case, and of all that are larger
    double equals = 0;  // of those since that weigh the same
    for (const int32_t id : order) {
      if (!forced(id) && !kept.empty() && !forced(kept.back()) && weight(kept.back()) == weight(id)) {
        equals += weight(id);
      } else {
        before += equals;
        equals = weight(id);
      }
      if (!forced(id) && choice.mass > 0 && before >= choice.mass) break;
      if (!forced(id) && weight(id) < static_cast<float>(most) * choice.of_largest) break;
      kept.push_back(id);
    }
    order = std::move(kept);
  }
  std::sort(order.begin(), order.end());
  std::fill(std::copy(order.begin(), order.end(), ids), ids + choice.count, kNoGranule);
}

}  // namespace spillway::reference

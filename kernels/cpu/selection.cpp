#include "kernels/cpu/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "kernels/cpu/pack_page.h"
#include "kernels/granule_key.h"
#include "kernels/kv_codec.h"

namespace spillway {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One token's partial key to its words.
void put_words(const PartialKeyFormat& format, const std::byte* row, int token, std::byte* page) {
  for (int word = 0; word < format.code_bytes() / 4; word++) {
    std::memcpy(page + format.word_at(word, token), row + 4 * word, 4);
  }
}

// To codes and their scale.
void pack_key(const PartialKeyFormat& format, const float* key, int token, std::byte* page) {
  float smallest = kInfinity, largest = -kInfinity;
  bool finite = true;
  for (int j = 0; j < format.rank; j++) {
    smallest = std::min(smallest, key[j]);
    largest = std::max(largest, key[j]);
    finite &= fits_f16(key[j]);
  }
  const GroupScale group = group_scale(smallest, largest, finite, format.bits);
  std::memcpy(page + format.scale_at(token), &group, sizeof group);
  const float minimum = f16_to_f32(group.minimum), inverse = inverse_of(group);
  uint8_t codes[kMostHeadDim];
  std::byte row[kMostHeadDim];
  for (int j = 0; j < format.rank; j++) {
    codes[j] = static_cast<uint8_t>(code_of(key[j], minimum, inverse, format.bits));
  }
  put_codes(codes, format.rank, format.bits, row);
  put_words(format, row, token, page);
}

// By digits of a key, the highest first, each time among those that agree in all digits before.
struct Digit {
  int shift;
  int bits;
};
constexpr Digit kDigits[] = {{21, 11}, {10, 11}, {0, 10}};

// Of `ids`, ascending, those that the weights leave; returns how many.
int adapt(const float* weights, const GranuleChoice& choice, int32_t* ids) {
  const auto weight = [&](int32_t id) { return id >= choice.scored || std::isnan(weights[id]) ? 0.0f : weights[id]; };
  const auto forced = [&](int32_t id) { return id < choice.first || id >= choice.granules - choice.last; };
  float largest = 0.0f;
  for (int32_t id = 0; id < choice.scored; id++) largest = std::max(largest, weight(id));
  float least = largest * choice.of_largest;
  if (choice.mass > 0) {
    std::vector<float> others;
    double sum = 0;
    for (int i = 0; i < choice.count; i++) {
      if (forced(ids[i])) {
        sum += weight(ids[i]);
      } else {
        others.push_back(weight(ids[i]));
      }
    }
    std::sort(others.begin(), others.end(), std::greater<>());
    size_t i = 0;
    while (i < others.size() && sum < choice.mass) sum += others[i++];
    // All that are not smaller than the last one; none where those chosen in any case are enough.
    if (i == 0) {
      least = kInfinity;
    } else {
      least = std::max(least, others[i - 1]);
    }
  }
  return static_cast<int>(
      std::remove_if(ids, ids + choice.count, [&](int32_t id) { return !forced(id) && weight(id) < least; }) - ids);
}

}  // namespace

void float_product(const CpuKernels& kernels, const FloatProduct& product) {
  FloatProduct part = product;
  for (int64_t m = 0; m < product.m; m += kFloatRows) {
    for (int64_t n = 0; n < product.n; n += kFloatCols) {
      part.m = std::min<int64_t>(kFloatRows, product.m - m);
      part.n = std::min<int64_t>(kFloatCols, product.n - n);
      part.x = product.x + m * static_cast<int64_t>(product.x_stride / sizeof(float));
      part.weight = product.weight + static_cast<uint64_t>(n) * product.weight_stride;
      part.out = product.out + m * static_cast<int64_t>(product.out_stride / sizeof(float)) + n;
      kernels.product_float(part);
    }
  }
}

void partial_keys(const CpuKernels& kernels, const KvFormat& kv, const PartialKeyFormat& format,
                  const PartialKeyBasis& basis, const PartialKeyRun& run, int head, float* worker) {
  float* keys = worker;  // [count x head_dim]
  float* partial = keys + int64_t{kPageTokens} * kv.head_dim;
  const auto token_bytes = static_cast<int64_t>(kv.token_bytes());
  const std::byte* from = run.page_row + head * kv.page_bytes() + run.first_token * token_bytes;
  const float* mean = basis.mean.f32(head);
  for (int i = 0; i < run.count; i++) {
    float* key = keys + int64_t{i} * kv.head_dim;
    kernels.widen(DType::f16, from + i * token_bytes, kv.head_dim, key);
    for (int c = 0; c < kv.head_dim; c++) key[c] -= mean[c];
  }
  FloatProduct product{};
  product.dtype = DType::f32;
  product.weight = basis.keys.row(int64_t{head} * format.rank);
  product.weight_stride = basis.keys.stride;
  product.n = format.rank;
  product.k = kv.head_dim;
  product.x = keys;
  product.x_stride = static_cast<uint64_t>(kv.head_dim) * sizeof(float);
  product.m = run.count;
  product.out = partial;
  product.out_stride = static_cast<uint64_t>(format.rank) * sizeof(float);
  product.scratch = partial + int64_t{kPageTokens} * format.rank;
  float_product(kernels, product);
  std::byte* page = run.partial + head * format.page_bytes();
  for (int i = 0; i < run.count; i++) {
    const float* key = partial + int64_t{i} * format.rank;
    const int token = run.first_token + i;
    if (format.bits == 16) {
      std::byte row[2 * kMostHeadDim];
      kernels.to_f16(key, format.rank, row);
      put_words(format, row, token, page);
    } else {
      pack_key(format, key, token, page);
    }
  }
}

void choose_granules(const float* weights, const GranuleChoice& choice, int32_t* ids) {
  const int last = choice.granules - choice.last;
  const auto key = [&](int id) { return granule_key(weights[id]); };
  int wanted = choice.count - choice.first - choice.last;  // of those between; from here on, with the prefix
  uint32_t prefix = 0;
  int above_bit = 32;
  for (const Digit& digit : kDigits) {
    if (wanted == 0) break;
    int counts[1 << 11] = {};
    for (int id = choice.first; id < last; id++) {
      const uint32_t k = key(id);
      if (above_bit == 32 || k >> above_bit == prefix >> above_bit)
        counts[k >> digit.shift & ((1 << digit.bits) - 1)]++;
    }
    int value = (1 << digit.bits) - 1;
    while (counts[value] < wanted) wanted -= counts[value--];
    prefix |= static_cast<uint32_t>(value) << digit.shift;
    above_bit = digit.shift;
  }
  // Above the prefix all, and of its equals the earliest.
  int equals = wanted;
  const bool any = choice.first + choice.last < choice.count;
  int32_t* const begin = ids;
  for (int id = 0; id < choice.granules; id++) {
    bool chosen = id < choice.first || id >= last;
    if (!chosen && any) {
      const uint32_t k = key(id);
      chosen = k > prefix || (k == prefix && equals-- > 0);
    }
    if (chosen) *ids++ = id;
  }
  if (!choice.adapts()) return;
  const int left = adapt(weights, choice, begin);
  std::fill(begin + left, begin + choice.count, kNoGranule);
}

}  // namespace spillway

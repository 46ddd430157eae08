#include "kernels/reference/key_bounds.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/blocks.h"
#include "kernels/reference/dequantize.h"

namespace spillway::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::byte* bounds_at(const KeyBoundsFormat& format, std::byte* row, int head, int granule) {
  return row + head * format.page_bytes() + static_cast<uint64_t>(granule) * format.granule_bytes();
}

double half_at(const std::byte* halves, int i) {
  uint16_t bits;
  std::memcpy(&bits, halves + 2 * i, sizeof bits);
  return f16_to_f32(bits);
}

}  // namespace

void key_bounds(const KvFormat& kv, const KeyBoundsFormat& format, const PartialKeyRun& run) {
  if (run.count == 0) return;
  const auto head_dim = static_cast<size_t>(kv.head_dim);
  const int end = run.first_token + run.count, size = format.granule_tokens;
  std::vector<double> key(head_dim);
  for (int head = 0; head < kv.kv_heads; head++) {
    for (int granule = run.first_token / size; granule * size < end; granule++) {
      std::vector<double> smallest(head_dim, kInfinity), largest(head_dim, -kInfinity);
      for (int token = granule * size; token < std::min(end, (granule + 1) * size); token++) {
        load_row(kv.dtype, run.page_row + head * kv.page_bytes() + token * kv.token_bytes(), kv.head_dim, key.data());
        for (size_t i = 0; i < head_dim; i++) {
          smallest[i] = std::min(smallest[i], key[i]);
          largest[i] = std::max(largest[i], key[i]);
        }
      }
      std::byte* to = bounds_at(format, run.partial, head, granule);
      for (const std::vector<double>* bounds : {&smallest, &largest}) {
        for (const double bound : *bounds) {
          const uint16_t half = f32_to_f16(static_cast<float>(bound));
          std::memcpy(to, &half, sizeof half);
          to += sizeof half;
        }
      }
    }
  }
}

void score_bounds(const float* q, const AttendShape& shape, const KeyBoundsFormat& format,
                  std::span<const std::byte* const> rows, const View& weights) {
  const int group = shape.heads / format.kv_heads;
  const auto granules = static_cast<size_t>(weights.cols);
  for (int kv_head = 0; kv_head < format.kv_heads; kv_head++) {
    std::vector<double> sums(granules, 0.0), scores(granules);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
      const float* query = q + int64_t{head} * format.head_dim;
      double most = -kInfinity, sum = 0;
      for (size_t g = 0; g < granules; g++) {
        const std::byte* bounds = bounds_at(format, const_cast<std::byte*>(rows[g / format.granules()]), kv_head,
                                            static_cast<int>(g % format.granules()));
        double score = 0;
        for (int i = 0; i < format.head_dim; i++) {
          score += std::max(query[i] * half_at(bounds, i), query[i] * half_at(bounds, format.head_dim + i));
        }
        scores[g] = shape.scale * score;
        most = std::max(most, scores[g]);
      }
      for (double& score : scores) sum += score = std::exp(score - most);
      for (size_t g = 0; g < granules; g++) sums[g] += scores[g] / sum;
    }
    std::copy(sums.begin(), sums.end(), weights.f32(kv_head));
  }
}

}  // namespace spillway::reference

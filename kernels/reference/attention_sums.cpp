#include "kernels/reference/attention_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/attention.h"

namespace spillway::reference {
namespace {

// The logarithm of what a head's softmax divides by, from the rows [begin, end) of states.
double log_sum(const View& states, int64_t begin, int64_t end, int head, int head_dim) {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  const auto state = [&](int64_t row) { return states.f32(row) + head * attn_state_floats(head_dim) + head_dim; };
  for (int64_t row = begin; row < end; row++) most = std::max(most, static_cast<double>(state(row)[0]));
  for (int64_t row = begin; row < end; row++) {
    if (state(row)[1] > 0) sum += state(row)[1] * std::exp(state(row)[0] - most);
  }
  return most + std::log(sum);
}

double dot(const float* q, const std::vector<double>& key) {
  double sum = 0;
  for (size_t i = 0; i < key.size(); i++) sum += key[i] * q[i];
  return sum;
}

}  // namespace

void sum_span(const View& q, int first_position, const AttendShape& shape, const KvSpan& span, const View& states,
              int granule_tokens, const View& sums) {
  const KvFormat& format = shape.format;
  std::vector<double> key(static_cast<size_t>(format.head_dim));
  const int group = shape.heads / format.kv_heads, end = span.first_position + span.tokens;
  for (int kv_head = 0; kv_head < format.kv_heads; kv_head++) {
    for (int first = span.first_position; first < end; first += granule_tokens) {
      double sum = 0;
      for (int token = first; token < std::min(end, first + granule_tokens); token++) {
        load_token(format, span, token - span.first_position, kv_head, false, key.data());
        const int64_t last = shape.window == 0 ? q.rows : int64_t{token} - first_position + shape.window;
        for (int64_t row = std::max(0, token - first_position); row < std::min(q.rows, last); row++) {
          for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
            const double score = shape.scale * dot(q.f32(row) + int64_t{head} * format.head_dim, key);
            sum += std::exp(score - log_sum(states, row, row + 1, head, format.head_dim));
          }
        }
      }
      float& to = sums.f32(kv_head)[first / granule_tokens];
      to = static_cast<float>(first >= first_position ? sum : to + sum);
    }
  }
}

void sum_granules(const float* q, const AttendShape& shape, const SelectedKv& kv, const View& ids, const View& states,
                  int tokens, const View& sums) {
  const KvFormat& format = shape.format;
  std::vector<double> key(static_cast<size_t>(format.head_dim));
  const int group = shape.heads / format.kv_heads;
  for (int kv_head = 0; kv_head < format.kv_heads; kv_head++) {
    std::vector<float> chosen(static_cast<size_t>(sums.cols), std::numeric_limits<float>::quiet_NaN());
    for (int i = 0; i < kv.granules; i++) {
      const GranulePlace& place = kv.places[int64_t{kv_head} * kv.granules + i];
      if (place.tokens == 0) break;
      const int32_t id = reinterpret_cast<const int32_t*>(ids.row(kv_head))[i];
      double sum = 0;
      for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const double all = log_sum(states, 0, kv.states(), head, format.head_dim);
        for (int token = 0; token < place.tokens; token++) {
          load_token(format, place, token, false, key.data());
          sum += std::exp(shape.scale * dot(q + int64_t{head} * format.head_dim, key) - all);
        }
      }
      const bool begins = id * kv.granule_tokens == tokens - 1;
      chosen[static_cast<size_t>(id)] = static_cast<float>(begins ? sum : sums.f32(kv_head)[id] + sum);
    }
    std::copy(chosen.begin(), chosen.end(), sums.f32(kv_head));
  }
}

}  // namespace spillway::reference

#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/dequantize.h"
#include "kernels/reference/packed_page.h"

namespace spillway::reference {
namespace {

constexpr double kNoMaximum = -std::numeric_limits<double>::infinity();

// sum(exp(s - max) * v), max, sum(exp(s - max)). The maximum is always a float's value: rounded after the sums were
// made, it would scale them.
struct State {
  explicit State(int head_dim) : values(static_cast<size_t>(head_dim), 0.0) {}

  std::vector<double> values;
  double max = kNoMaximum;
  double sum = 0.0;

  static State load(const float* from, int head_dim) {
    State state(head_dim);
    std::copy_n(from, head_dim, state.values.begin());
    state.max = from[head_dim];
    state.sum = from[head_dim + 1];
    return state;
  }

  void store(float* to) const {
    for (size_t i = 0; i < values.size(); i++) to[i] = static_cast<float>(values[i]);
    to[values.size()] = static_cast<float>(max);
    to[values.size() + 1] = static_cast<float>(sum);
  }

  // Afterwards the state is of the tokens of both.
  void merge(const State& other) {
    if (other.max == kNoMaximum) return;
    const double top = std::max(max, other.max);
    const double mine = std::exp(max - top);  // 0 for an empty state
    const double theirs = std::exp(other.max - top);
    for (size_t i = 0; i < values.size(); i++) values[i] = values[i] * mine + other.values[i] * theirs;
    sum = sum * mine + other.sum * theirs;
    max = top;
  }
};

double dot(const float* q, const std::vector<double>& key) {
  double sum = 0.0;
  for (size_t i = 0; i < key.size(); i++) sum += q[i] * key[i];
  return sum;
}

// The states of the query heads that share one KV head, over tokens [begin, end); q [group x head_dim]; load(token,
// value, values): a key, or a value.
template <typename Load>
std::vector<State> states_of(const AttendShape& shape, const float* q, const TokenRange& range, const Load& load) {
  const KvFormat& format = shape.format;
  const size_t group = static_cast<size_t>(shape.heads / format.kv_heads);
  std::vector<State> states(group, State(format.head_dim));
  std::vector<double> row(static_cast<size_t>(format.head_dim));
  const size_t tokens = static_cast<size_t>(range.end);
  std::vector<double> scores(group * tokens);
  for (int t = range.begin; t < range.end; t++) {
    load(t, false, row.data());
    for (size_t g = 0; g < group; g++) {
      const double score = dot(q + g * row.size(), row) * shape.scale;
      scores[g * tokens + t] = score;
      states[g].max = std::max(states[g].max, static_cast<double>(static_cast<float>(score)));
    }
  }
  for (int t = range.begin; t < range.end; t++) {
    load(t, true, row.data());
    for (size_t g = 0; g < group; g++) {
      const double weight = std::exp(scores[g * tokens + t] - states[g].max);
      states[g].sum += weight;
      for (size_t i = 0; i < row.size(); i++) states[g].values[i] += weight * row[i];
    }
  }
  return states;
}

}  // namespace

void load_token(const KvFormat& format, const KvSpan& span, int token, int kv_head, bool value, double* values) {
  const int row = token / kPageTokens, in_page = token % kPageTokens;
  SPILLWAY_CHECK(span.rows[row] != nullptr);
  if (span.is_packed(row)) {
    const auto page_bytes = static_cast<uint64_t>(format.packed_page().bytes());
    return load_packed(format, span.rows[row] + kv_head * page_bytes, in_page, value, values);
  }
  const std::byte* at =
      span.rows[row] + kv_head * format.page_bytes() + ((value ? kPageTokens : 0) + in_page) * format.token_bytes();
  load_row(format.dtype, at, format.head_dim, values);
}

void load_token(const KvFormat& format, const GranulePlace& place, int token, bool value, double* values) {
  if (place.packed == 0) {
    return load_row(format.dtype, (value ? place.values : place.keys) + token * format.token_bytes(), format.head_dim,
                    values);
  }
  // The page as it was: its header, then this granule in the first one's place.
  const PackedPage p = format.packed_page();
  std::vector<std::byte> page(static_cast<size_t>(p.header_bytes + p.granule_bytes));
  std::copy_n(place.values, p.header_bytes, page.begin());
  std::copy_n(place.keys, p.granule_bytes, page.begin() + p.header_bytes);
  load_packed(format, page.data(), token, value, values);
}

void clear_states(const AttendShape& shape, float* states) {
  const int head_dim = shape.format.head_dim;
  for (int head = 0; head < shape.heads; head++) State(head_dim).store(states + head * attn_state_floats(head_dim));
}

void fold_span(const AttendShape& shape, const float* q, const KvSpan& span, const TokenRange& range, float* states) {
  SPILLWAY_CHECK(range.begin >= 0 && range.end <= span.tokens && span.tokens <= kSpanTokens);
  if (range.begin >= range.end) return;
  const int head_dim = shape.format.head_dim;
  const int group = shape.heads / shape.format.kv_heads;
  for (int kv_head = 0; kv_head < shape.format.kv_heads; kv_head++) {
    const int first = kv_head * group;
    const auto folded = states_of(shape, q + first * head_dim, range, [&](int token, bool value, double* values) {
      load_token(shape.format, span, token, kv_head, value, values);
    });
    for (int g = 0; g < group; g++) {
      float* to = states + (first + g) * attn_state_floats(head_dim);
      State state = State::load(to, head_dim);
      state.merge(folded[static_cast<size_t>(g)]);
      state.store(to);
    }
  }
}

void attend_granules(const AttendShape& shape, const float* q, const SelectedKv& kv, int first, float* states) {
  const int head_dim = shape.format.head_dim;
  const int group = shape.heads / shape.format.kv_heads;
  const int count = std::min(kv.granules_per_state(), kv.granules - first);
  for (int kv_head = 0; kv_head < shape.format.kv_heads; kv_head++) {
    const GranulePlace* places = kv.places + static_cast<int64_t>(kv_head) * kv.granules + first;
    int tokens = 0;
    for (int i = 0; i < count; i++) tokens += places[i].tokens;  // full ones, the last, and then none
    const auto folded =
        states_of(shape, q + kv_head * group * head_dim, {0, tokens}, [&](int token, bool value, double* values) {
          load_token(shape.format, places[token / kv.granule_tokens], token % kv.granule_tokens, value, values);
        });
    for (int g = 0; g < group; g++) {
      folded[static_cast<size_t>(g)].store(states + (kv_head * group + g) * attn_state_floats(head_dim));
    }
  }
}

void merge_states(const AttendShape& shape, const View& states, const MergeTask& task, float* out) {
  const int head_dim = shape.format.head_dim;
  for (int head = 0; head < shape.heads; head++) {
    State all(head_dim);
    for (int i = 0; i < task.count; i++) {
      const float* slot = states.f32(task.first_slot + i) + head * attn_state_floats(head_dim);
      all.merge(State::load(slot, head_dim));
    }
    for (int i = 0; i < head_dim; i++) {
      out[head * head_dim + i] = all.sum > 0.0 ? static_cast<float>(all.values[i] / all.sum) : 0.0f;
    }
  }
}

}  // namespace spillway::reference

// Kernels on floats, written once over Lanes (lanes_*.inl, included before).

namespace spillway {
namespace {

inline int lanes_left(int64_t n) { return n < kLanes ? static_cast<int>(n) : kLanes; }

// exp within 2 units in the last place for -87.33 <= x <= 88.02; zero below, NaN where x is NaN.
// Cody and Waite's reduction by ln 2 in two parts, then a Taylor polynomial on |r| <= ln(2) / 2.
inline Lanes exp_up_to_88(const Lanes& x) {
  constexpr float kLeast = -87.33f;
  const Lanes clamped = max(lanes_set(kLeast), x);
  const Lanes n = round_even(mul(clamped, lanes_set(0x1.715476p+0f)));
  Lanes r = fnma(n, lanes_set(0x1.62ep-1f), clamped);
  r = fnma(n, lanes_set(0x1.0bfbe8p-15f), r);
  Lanes p = lanes_set(1.0f / 5040);
  p = fma(p, r, lanes_set(1.0f / 720));
  p = fma(p, r, lanes_set(1.0f / 120));
  p = fma(p, r, lanes_set(1.0f / 24));
  p = fma(p, r, lanes_set(1.0f / 6));
  p = fma(p, r, lanes_set(0.5f));
  p = fma(p, r, lanes_set(1.0f));
  p = fma(p, r, lanes_set(1.0f));
  return times_power_of_2(p, n, not_below(x, kLeast));
}

// x <= 0
inline float exp_one(float x) { return first(exp_up_to_88(lanes_set(x))); }

void norm(const float* x, const float* weight, float eps, int64_t k, float* out) {
  Lanes sums[4] = {lanes_zero(), lanes_zero(), lanes_zero(), lanes_zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= k; i += 4 * kLanes) {
    for (int j = 0; j < 4; j++) {
      const Lanes v = load_f32(x + i + j * kLanes);
      sums[j] = fma(v, v, sums[j]);
    }
  }
  for (; i < k; i += kLanes) {
    const Lanes v = load_f32_part(x + i, lanes_left(k - i));
    sums[0] = fma(v, v, sums[0]);
  }
  const float sum = sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  const Lanes scale = lanes_set(1.0f / __builtin_sqrtf(sum / static_cast<float>(k) + eps));
  for (i = 0; i + kLanes <= k; i += kLanes) {
    store_f32(out + i, mul(mul(load_f32(x + i), scale), load_f32(weight + i)));
  }
  if (i < k) {
    const int n = lanes_left(k - i);
    store_f32_part(out + i, mul(mul(load_f32_part(x + i, n), scale), load_f32_part(weight + i, n)), n);
  }
}

// Two passes over x: the variance of large means would drown in rounding otherwise.
void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t k, float* out) {
  Lanes sum = lanes_zero();
  for (int64_t i = 0; i < k; i += kLanes) sum = add(sum, load_f32_part(x + i, lanes_left(k - i)));
  const Lanes mean = lanes_set(sum_of(sum) / static_cast<float>(k));
  Lanes squares = lanes_zero();
  for (int64_t i = 0; i < k; i += kLanes) {
    const int n = lanes_left(k - i);
    const Lanes d = keep_first(sub(load_f32_part(x + i, n), mean), n, 0.0f);
    squares = fma(d, d, squares);
  }
  const Lanes scale = lanes_set(1.0f / __builtin_sqrtf(sum_of(squares) / static_cast<float>(k) + eps));
  for (int64_t i = 0; i < k; i += kLanes) {
    const int n = lanes_left(k - i);
    const Lanes d = mul(sub(load_f32_part(x + i, n), mean), scale);
    store_f32_part(out + i, fma(d, load_f32_part(weight + i, n), load_f32_part(bias + i, n)), n);
  }
}

void add_row(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

void scale_row(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

// x / (1 + exp(-y)). With y below -88 the quotient is no normal float any more: zero.
inline Lanes times_sigmoid(const Lanes& x, const Lanes& y) {
  constexpr float kMost = 88.0f;
  const Lanes exponent = min(lanes_set(kMost), sub(lanes_zero(), y));
  return where(not_below(y, -kMost), div(x, add(lanes_set(1.0f), exp_up_to_88(exponent))));
}

struct Silu {
  static Lanes of(const Lanes& x) { return times_sigmoid(x, x); }
};
// x / 2 * (1 + tanh(u)) = x / (1 + exp(-2 u)).
struct Gelu {
  static Lanes of(const Lanes& x) {
    constexpr float kTwice = 1.5957691216057308f;  // 2 * sqrt(2 / pi)
    const Lanes cubic = mul(mul(mul(x, x), x), lanes_set(0.044715f));
    return times_sigmoid(x, mul(add(x, cubic), lanes_set(kTwice)));
  }
};
struct Relu {
  static Lanes of(const Lanes& x) { return max(lanes_zero(), x); }
};

template <typename F>
void activate_row(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int left = lanes_left(n - i);
    Lanes y = F::of(left == kLanes ? load_f32(gate + i) : load_f32_part(gate + i, left));
    if (up != nullptr) y = mul(y, left == kLanes ? load_f32(up + i) : load_f32_part(up + i, left));
    if (left == kLanes) {
      store_f32(out + i, y);
    } else {
      store_f32_part(out + i, y, left);
    }
  }
}

void activate(Activation kind, const float* gate, const float* up, int64_t n, float* out) {
  switch (kind) {
    case Activation::silu:
      return activate_row<Silu>(gate, up, n, out);
    case Activation::gelu:
      return activate_row<Gelu>(gate, up, n, out);
    case Activation::relu:
      return activate_row<Relu>(gate, up, n, out);
  }
}

// table: cos, sin of each pair.
void rotate(float* x, int heads, int head_dim, RotationStyle style, const float* table, int pairs) {
  for (int h = 0; h < heads; h++, x += head_dim) {
    if (style == RotationStyle::adjacent) {
      for (int i = 0; i < pairs; i++) {
        const float a = x[2 * i];
        const float b = x[2 * i + 1];
        x[2 * i] = a * table[2 * i] - b * table[2 * i + 1];
        x[2 * i + 1] = a * table[2 * i + 1] + b * table[2 * i];
      }
    } else {
      for (int i = 0; i < pairs; i++) {
        const float a = x[i];
        const float b = x[i + pairs];
        x[i] = a * table[2 * i] - b * table[2 * i + 1];
        x[i + pairs] = a * table[2 * i + 1] + b * table[2 * i];
      }
    }
  }
}

void to_f16(const float* x, int64_t n, std::byte* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f16(out + 2 * i, load_f32(x + i));
  if (i < n) store_f16_part(out + 2 * i, load_f32_part(x + i, lanes_left(n - i)), lanes_left(n - i));
}

template <DType kType>
inline Lanes load_lanes(const std::byte* row, int64_t i) {
  if constexpr (kType == DType::f32) return load_f32(row + 4 * i);
  if constexpr (kType == DType::f16) return load_f16(row + 2 * i);
  if constexpr (kType == DType::bf16) return load_bf16(row + 2 * i);
}

template <DType kType>
inline Lanes load_lanes_part(const std::byte* row, int64_t i, int n) {
  if constexpr (kType == DType::f32) return load_f32_part(row + 4 * i, n);
  if constexpr (kType == DType::f16) return load_f16_part(row + 2 * i, n);
  if constexpr (kType == DType::bf16) return load_bf16_part(row + 2 * i, n);
}

template <DType kType>
void float_row(const std::byte* row, int64_t k, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) store_f32(out + i, load_lanes<kType>(row, i));
  if (i < k) store_f32_part(out + i, load_lanes_part<kType>(row, i, lanes_left(k - i)), lanes_left(k - i));
}

void widen(DType type, const std::byte* row, int64_t k, float* out) {
  switch (type) {
    case DType::f32:
      return float_row<DType::f32>(row, k, out);
    case DType::f16:
      return float_row<DType::f16>(row, k, out);
    default:
      return float_row<DType::bf16>(row, k, out);
  }
}

}  // namespace
}  // namespace spillway

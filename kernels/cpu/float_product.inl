// Products with float weights: 16 partial sums over k mod 16 for each output, ascending, folded at the end. Few rows of
// x stream the weights past; more go through a block of weights that stays in cache, its partial sums kept between
// chunks of k, so that an output sees the same additions either way.

namespace spillway {
namespace {

inline const float* x_row(const FloatProduct& p, int64_t m) {
  return reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(p.x) + m * p.x_stride);
}
inline float* out_row(const FloatProduct& p, int64_t m) {
  return reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + m * p.out_stride);
}

// One row of x against N rows of weights.
template <DType kType, int N>
inline void stream_tile(const FloatProduct& p, int64_t m, int64_t n) {
  const float* x = x_row(p, m);
  Lanes sums[N];
  for (int j = 0; j < N; j++) sums[j] = lanes_zero();
  int64_t k = 0;
  for (; k + kLanes <= p.k; k += kLanes) {
    const Lanes row = load_f32(x + k);
    for (int j = 0; j < N; j++) {
      sums[j] = fma(row, load_lanes<kType>(p.weight + (n + j) * p.weight_stride, k), sums[j]);
    }
  }
  if (k < p.k) {
    const int left = lanes_left(p.k - k);
    const Lanes row = load_f32_part(x + k, left);
    for (int j = 0; j < N; j++) {
      sums[j] = fma(row, load_lanes_part<kType>(p.weight + (n + j) * p.weight_stride, k, left), sums[j]);
    }
  }
  float* out = out_row(p, m) + n;
  for (int j = 0; j < N; j++) out[j] = p.add ? out[j] + sum_of(sums[j]) : sum_of(sums[j]);
}

template <DType kType>
void stream_product(const FloatProduct& p) {
  int64_t n = 0;
  for (; n + 4 <= p.n; n += 4) {
    for (int64_t m = 0; m < p.m; m++) stream_tile<kType, 4>(p, m, n);
  }
  for (; n < p.n; n++) {
    for (int64_t m = 0; m < p.m; m++) stream_tile<kType, 1>(p, m, n);
  }
}

// Weights [rows x length] from column k on -> [padded rows x kFloatChunk] f32, zero to whole lanes and whole tiles.
template <DType kType>
inline void widen_weights(const FloatProduct& p, int64_t k, int64_t length, int64_t padded, float* out) {
  for (int64_t n = 0; n < padded; n++, out += kFloatChunk) {
    const std::byte* row = p.weight + n * p.weight_stride;
    for (int64_t i = 0; i < length; i += kLanes) {
      const bool whole = i + kLanes <= length;
      store_f32(out + i, n >= p.n ? lanes_zero()
                         : whole  ? load_lanes<kType>(row, k + i)
                                  : load_lanes_part<kType>(row, k + i, lanes_left(length - i)));
    }
  }
}

// One chunk of k of M rows of x against kFloatTileN rows of widened weights; sums [M][kFloatCols] of Lanes go on.
template <int M>
inline void block_tile(const FloatProduct& p, int64_t m, const float* weights, int64_t k, int64_t length, float* sums) {
  const float* x[M];
  Lanes s[M][kFloatTileN];
  float ends[M * kLanes];  // of the rows, padded with zeros where the chunk is no whole number of lanes
  const int64_t whole = length / kLanes * kLanes;
  for (int i = 0; i < M; i++) {
    x[i] = x_row(p, m + i) + k;
    if (whole < length) store_f32(ends + i * kLanes, load_f32_part(x[i] + whole, lanes_left(length - whole)));
  }
  for (int i = 0; i < M; i++) {
    for (int j = 0; j < kFloatTileN; j++) {
      s[i][j] = k == 0 ? lanes_zero() : load_f32(sums + (i * kFloatCols + j) * kLanes);
    }
  }
  for (int64_t at = 0; at < length; at += kLanes) {
    if (at == whole) {
      for (int i = 0; i < M; i++) x[i] = ends + i * kLanes - whole;
    }
    Lanes w[kFloatTileN];
    for (int j = 0; j < kFloatTileN; j++) w[j] = load_f32(weights + j * kFloatChunk + at);
    for (int i = 0; i < M; i++) {
      const Lanes row = load_f32(x[i] + at);
      for (int j = 0; j < kFloatTileN; j++) s[i][j] = fma(row, w[j], s[i][j]);
    }
  }
  for (int i = 0; i < M; i++) {
    for (int j = 0; j < kFloatTileN; j++) store_f32(sums + (i * kFloatCols + j) * kLanes, s[i][j]);
  }
}

template <int M>
inline void block_rows(const FloatProduct& p, int64_t m, const float* weights, int64_t k, int64_t length, float* sums) {
  for (int64_t n = 0; n < p.n; n += kFloatTileN) {
    block_tile<M>(p, m, weights + n * kFloatChunk, k, length, sums + (m * kFloatCols + n) * kLanes);
  }
}

inline void fold_block(const FloatProduct& p, const float* sums) {
  for (int64_t m = 0; m < p.m; m++) {
    float* out = out_row(p, m);
    for (int64_t n = 0; n < p.n; n += kLanes) {
      Lanes s[kLanes];
      for (int j = 0; j < kLanes; j++)
        s[j] = n + j < p.n ? load_f32(sums + (m * kFloatCols + n + j) * kLanes) : lanes_zero();
      const Lanes folded = sums_of(s);
      const int left = lanes_left(p.n - n);
      store_f32_part(out + n, p.add ? add(load_f32_part(out + n, left), folded) : folded, left);
    }
  }
}

template <DType kType>
void block_product(const FloatProduct& p) {
  float* sums = p.scratch;  // [kFloatRows][kFloatCols][kLanes]
  float* weights = sums + kFloatRows * kFloatCols * kLanes;
  const int64_t padded = (p.n + kFloatTileN - 1) / kFloatTileN * kFloatTileN;
  for (int64_t k = 0; k < p.k; k += kFloatChunk) {
    const int64_t length = p.k - k < kFloatChunk ? p.k - k : kFloatChunk;
    widen_weights<kType>(p, k, length, padded, weights);
    int64_t m = 0;
    for (; m + kFloatTileM <= p.m; m += kFloatTileM) block_rows<kFloatTileM>(p, m, weights, k, length, sums);
    switch (p.m - m) {
      case 5:
        block_rows<5>(p, m, weights, k, length, sums);
        break;
      case 4:
        block_rows<4>(p, m, weights, k, length, sums);
        break;
      case 3:
        block_rows<3>(p, m, weights, k, length, sums);
        break;
      case 2:
        block_rows<2>(p, m, weights, k, length, sums);
        break;
      case 1:
        block_rows<1>(p, m, weights, k, length, sums);
        break;
      default:
        break;
    }
  }
  fold_block(p, sums);
}

template <DType kType>
void float_product_of(const FloatProduct& p) {
  if (p.m < kLeastBlockRows) return stream_product<kType>(p);
  block_product<kType>(p);
}

void product_float(const FloatProduct& p) {
  switch (p.dtype) {
    case DType::f32:
      return float_product_of<DType::f32>(p);
    case DType::f16:
      return float_product_of<DType::f16>(p);
    default:
      return float_product_of<DType::bf16>(p);
  }
}

}  // namespace
}  // namespace spillway

// Quantised products in plain C++.

namespace spillway {
namespace {

void quantize(const float* x, int64_t blocks, ActBlock* out, int64_t step) {
  for (int64_t b = 0; b < blocks; b++, x += 32, out += step) {
    uint32_t bits = 0;  // of the largest magnitude; NaN is larger than all, so that it reaches the scale
    for (int i = 0; i < 32; i++) {
      const uint32_t magnitude = float_bits(x[i]) & 0x7fffffff;
      bits = bits > magnitude ? bits : magnitude;
    }
    const float largest = float_from_bits(bits);
    const bool nothing = largest < kLeastActivation;
    out->scale = nothing ? 0.0f : largest / 127.0f;
    const float inverse = nothing ? 0.0f : 127.0f / largest;
    int sum = 0;
    for (int i = 0; i < 32; i++) {
      const float code = __builtin_rintf(x[i] * inverse);
      out->codes[i] = code >= -127.0f && code <= 127.0f ? static_cast<int8_t>(code) : int8_t{0};
      sum += out->codes[i];
    }
    out->scaled_sum = out->scale * static_cast<float>(sum);
    out->minus_8_sums = -8 * sum;
    out->minus_128_sums = -128 * sum;
  }
}

void pack(DType type, const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  const int bytes = quantised_bytes(type);
  for (int64_t b = 0; b < blocks; b++, tile += kPackedBlockBytes) {
    for (int r = 0; r < kTileRows; r++) {
      const std::byte* block = weight + static_cast<uint64_t>(r < rows ? r : rows - 1) * stride + b * bytes;
      const float d = half_to_float(load_u16(block));
      const float m = type == DType::q4_1 ? half_to_float(load_u16(block + 2)) : 0.0f;
      __builtin_memcpy(tile + 512 + 4 * r, &d, sizeof d);
      __builtin_memcpy(tile + 576 + 4 * r, &m, sizeof m);
      const std::byte* codes = block + (type == DType::q4_1 ? 4 : 2);
      for (int i = 0; i < 32; i++) {
        const int byte = static_cast<int>(codes[type == DType::q8_0 ? i : i % 16]);
        const int nibble_code = i < 16 ? byte & 15 : byte >> 4;
        const int code = type == DType::q8_0 ? byte : type == DType::q4_0 ? nibble_code - 8 : nibble_code;
        tile[(i / 4) * 64 + 4 * r + i % 4] = static_cast<std::byte>(code);
      }
    }
  }
}

// One tile of 16 rows as pack() lays it, block by block, against one row of activations.
void add_block(const std::byte* tile, const ActBlock& x, float* sums) {
  int32_t dots[kTileRows] = {};
  for (int g = 0; g < 8; g++) {
    for (int r = 0; r < kTileRows; r++) {
      for (int i = 0; i < 4; i++) {
        dots[r] += static_cast<int8_t>(tile[g * 64 + 4 * r + i]) * x.codes[4 * g + i];
      }
    }
  }
  const Lanes d = load_f32(tile + 512);
  const Lanes m = load_f32(tile + 576);
  for (int r = 0; r < kTileRows; r++) {
    sums[r] = sums[r] + static_cast<float>(dots[r]) * (d.v[r] * x.scale);
    sums[r] = sums[r] + m.v[r] * x.scaled_sum;  // m is zero but for Q4_1
  }
}

void store_sums(const QuantProduct& p, int i, int64_t first, int rows, const float* sums) {
  float* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + i * p.out_stride) + first;
  for (int r = 0; r < rows; r++) out[r] = p.add ? out[r] + sums[r] : sums[r];
}

void product_packed(const QuantProduct& p) {
  for (int i = 0; i < p.m; i++) {
    float sums[kTileRows] = {};
    for (int64_t b = 0; b < p.blocks; b++) add_block(p.weight + b * kPackedBlockBytes, p.x[b * p.m + i], sums);
    store_sums(p, i, 0, static_cast<int>(p.rows), sums);
  }
}

void product_in_place(const QuantProduct& p) {
  const int bytes = quantised_bytes(p.dtype);
  for (int64_t row = 0; row < p.rows; row += kTileRows) {
    float sums[kInPlaceGroup][kTileRows] = {};
    for (int64_t b = 0; b < p.blocks; b++) {
      std::byte tile[kPackedBlockBytes];
      pack(p.dtype, p.weight + row * p.weight_stride + b * bytes, p.weight_stride, kTileRows, 1, tile);
      for (int i = 0; i < p.m; i++) add_block(tile, p.x[b * p.m + i], sums[i]);
    }
    for (int i = 0; i < p.m; i++) store_sums(p, i, row, kTileRows, sums[i]);
  }
}

}  // namespace
}  // namespace spillway

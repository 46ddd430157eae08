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
    int sums[2] = {};
    for (int i = 0; i < 32; i++) {
      const float code = __builtin_rintf(x[i] * inverse);
      out->codes[i] = code >= -127.0f && code <= 127.0f ? static_cast<int8_t>(code) : int8_t{0};
      sums[i / 16] += out->codes[i];
    }
    set_sums(out->scale, sums[0], sums[1], out);
  }
}

template <typename Format>
void pack_rows(const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  constexpr int kBytes = kFormatBytes<Format>;
  std::byte copies[kTileRows * kBytes];  // of a tile that ends the matrix, its last row is repeated
  for (int64_t at = 0; at < blocks / kFormatBlocks<Format> * kBytes; at += kBytes) {
    for (int r = 0; r < kTileRows; r++) {
      __builtin_memcpy(copies + r * kBytes, weight + static_cast<uint64_t>(r < rows ? r : rows - 1) * stride + at,
                       kBytes);
    }
    const Rows lanes(copies, kBytes);
    Format format;
    format.begin(lanes, 0);
    for (int b = 0; b < kFormatBlocks<Format>; b++, tile += kPackedBlockBytes) {
      RowsBlock block;
      format.block(lanes, 0, b, &block);
      __builtin_memcpy(tile, block.codes, sizeof block.codes);
      for (int part = 0; part < (Format::kCodes.halves ? 2 : 1); part++) {
        store_f32(reinterpret_cast<float*>(tile + kPackedD) + part * kTileRows, block.d[part]);
        if (Format::kCodes.affine)
          store_f32(reinterpret_cast<float*>(tile + kPackedM) + part * kTileRows, block.m[part]);
      }
    }
  }
}

// One tile of 16 rows as pack() lays it, block by block, against one row of activations.
template <Codes kCodes>
void add_block(const std::byte* tile, const ActBlock& x, float* sums) {
  constexpr int kParts = kCodes.halves ? 2 : 1;
  for (int part = 0; part < kParts; part++) {
    int32_t dots[kTileRows] = {};
    for (int g = part * 8 / kParts; g < (part + 1) * 8 / kParts; g++) {
      for (int r = 0; r < kTileRows; r++) {
        for (int i = 0; i < 4; i++) {
          const auto code = static_cast<uint8_t>(tile[g * 64 + 4 * r + i]);
          const int weight = kCodes.is_signed ? static_cast<int8_t>(code) : code - kCodes.offset;
          dots[r] += weight * x.codes[4 * g + i];
        }
      }
    }
    const Lanes d = load_f32(tile + kPackedD + 64 * part);
    for (int r = 0; r < kTileRows; r++) sums[r] = sums[r] + static_cast<float>(dots[r]) * (d.v[r] * x.scale);
    if constexpr (kCodes.affine) {
      const Lanes m = load_f32(tile + kPackedM + 64 * part);
      const float scaled_sum = kCodes.halves ? x.scaled_halves[part] : x.scaled_sum;
      for (int r = 0; r < kTileRows; r++) sums[r] = sums[r] + m.v[r] * scaled_sum;
    }
  }
}

void store_sums(const QuantProduct& p, int i, int64_t first, int rows, const float* sums) {
  float* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(p.out) + i * p.out_stride) + first;
  for (int r = 0; r < rows; r++) out[r] = p.add ? out[r] + sums[r] : sums[r];
}

template <Codes kCodes>
void packed(const QuantProduct& p) {
  for (int i = 0; i < p.m; i++) {
    float sums[kTileRows] = {};
    for (int64_t b = 0; b < p.blocks; b++) {
      add_block<kCodes>(p.weight + b * kPackedBlockBytes, p.x[b * p.m + i], sums);
    }
    store_sums(p, i, 0, static_cast<int>(p.rows), sums);
  }
}

template <typename Format>
void in_place(const QuantProduct& p) {
  constexpr int kBlocks = kFormatBlocks<Format>;
  for (int64_t row = 0; row < p.rows; row += kTileRows) {
    float sums[kInPlaceGroup][kTileRows] = {};
    for (int64_t first = 0; first < p.blocks; first += kBlocks) {
      std::byte tile[kBlocks * kPackedBlockBytes];
      const std::byte* block = p.weight + row * p.weight_stride + first / kBlocks * kFormatBytes<Format>;
      pack_rows<Format>(block, p.weight_stride, kTileRows, kBlocks, tile);
      for (int b = 0; b < kBlocks; b++) {
        for (int i = 0; i < p.m; i++) {
          add_block<Format::kCodes>(tile + b * kPackedBlockBytes, p.x[(first + b) * p.m + i], sums[i]);
        }
      }
    }
    for (int i = 0; i < p.m; i++) store_sums(p, i, row, kTileRows, sums[i]);
  }
}

void pack(DType type, const std::byte* weight, uint64_t stride, int rows, int64_t blocks, std::byte* tile) {
  with_format(type, [=]<typename Format>(Of<Format>) { pack_rows<Format>(weight, stride, rows, blocks, tile); });
}

void product_in_place(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { in_place<Format>(p); });
}

void product_packed(const QuantProduct& p) {
  with_format(p.dtype, [&]<typename Format>(Of<Format>) { packed<Format::kCodes>(p); });
}

}  // namespace
}  // namespace spillway

#!/usr/bin/env python3
"""Makes tests/kernels/data/kv_pages.bin again: a KV page of half precision, packed by every codec, by numpy, which shares
no line with the runtime (2.4.6 made the committed file).

    make_kv_golden.py FILE

head_dim (uint32), the page's keys and values [2][64][head_dim] (float16); then for each of q8, q4, kivi4, kivi2: the
count of bytes (uint32), the packed bytes, and the page that they stand for [2][64][head_dim] (float16); little-endian.
The layout is that of kernels/kv_page.h, the arithmetic that of kernels/kv_codec.h.
"""
import struct
import sys

import numpy as np

TOKENS, GRANULE, HEAD_DIM, GROUP = 64, 4, 24, 24
f32, f16 = np.float32, np.float16


def pack(groups, bits):
    """groups [n, elements] float16 -> scales [n] float16, minima [n] float16, codes [n, elements]"""
    x = groups.astype(f32)
    levels = f32(2**bits - 1)
    low, high = x.min(1), x.max(1)
    minimum = (low + f32(0)).astype(f16)
    scale = ((high - low) / levels).astype(f16)
    with np.errstate(over="ignore"):
        top = (levels * scale.astype(f32) + minimum.astype(f32)).astype(f16)
    scale = np.where(np.isinf(top), np.nextafter(scale, f16(0)), scale)
    inverse = np.zeros(len(scale), f32)
    np.divide(f32(1), scale.astype(f32), out=inverse, where=scale != 0)
    codes = np.rint(np.minimum((x - minimum.astype(f32)[:, None]) * inverse[:, None], levels)).astype(np.uint8)
    return scale, minimum, codes


def unpack(scale, minimum, codes):
    return (codes.astype(f32) * scale.astype(f32)[:, None] + minimum.astype(f32)[:, None]).astype(f16)


def code_bytes(codes, bits):
    """[tokens, head_dim] -> [tokens, bytes]"""
    planes = np.unpackbits(codes[:, :, None], axis=2, bitorder="little")[:, :, :bits]
    return np.packbits(planes.reshape(len(codes), -1), axis=1, bitorder="little")


def scale_bytes(scale, minimum):
    return np.stack([scale, minimum], 1).astype("<f2").tobytes()


def packed_page(page, bits, per_channel):
    packed, restored, header, token_scales = [], [], b"", []
    for part in (0, 1):
        if part == 0 and per_channel:
            scale, minimum, codes = pack(page[0].T, bits)
            header = scale_bytes(scale, minimum)
            restored.append(unpack(scale, minimum, codes).T)
            codes = codes.T
        else:
            scale, minimum, codes = pack(page[part].reshape(-1, GROUP), bits)
            token_scales.append((scale, minimum))
            restored.append(unpack(scale, minimum, codes).reshape(TOKENS, HEAD_DIM))
            codes = codes.reshape(TOKENS, HEAD_DIM)
        packed.append(code_bytes(codes, bits))
    out = header
    groups = HEAD_DIM // GROUP
    for first in range(0, TOKENS, GRANULE):
        for codes in packed:
            out += codes[first:first + GRANULE].tobytes()
        for scale, minimum in token_scales:
            out += scale_bytes(scale[first * groups:(first + GRANULE) * groups],
                               minimum[first * groups:(first + GRANULE) * groups])
    return out, np.stack(restored)


def main():
    rng = np.random.default_rng(6)
    page = rng.standard_normal((2, TOKENS, HEAD_DIM)) * 2.0 ** rng.integers(-3, 4, (2, 1, HEAD_DIM))
    page[0, :, 3] += 30  # a channel of outliers
    page[0, :, 7] = 0.5  # constant: a scale of zero
    page[1, 9] = -0.0
    page[1, 11] = 1e-7 * rng.standard_normal(HEAD_DIM)  # subnormal scales
    page[1, 13, :2] = 65504, -65504  # a scale that would round beyond the largest half
    page[0, 5, 20], page[0, 6, 20] = -65504, 65504
    page = page.astype(f16)
    with open(sys.argv[1], "wb") as file:
        file.write(struct.pack("<I", HEAD_DIM) + page.astype("<f2").tobytes())
        for bits, per_channel in ((8, False), (4, False), (4, True), (2, True)):
            packed, restored = packed_page(page, bits, per_channel)
            file.write(struct.pack("<I", len(packed)) + packed + restored.astype("<f2").tobytes())


main()

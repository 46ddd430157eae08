#!/usr/bin/env python3
"""Makes tests/kernels/data/blocks.bin again: random blocks of every quantised type and their values by the package gguf
(gguf.quants, numpy; 0.19.0 made the committed file), which shares no line with the runtime.

    make_blocks.py FILE

A record for each type: ggml's number of the type, count of bytes, count of values (uint32), the bytes, the values
(float32); little-endian.
"""
import struct
import sys

import gguf
import numpy as np

ELEMENTS = 512
# Offsets of the fp16 scales of a block, whose random bits might be infinite.
TYPES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "IQ4_NL": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0],
}


def main():
    rng = np.random.default_rng(20)
    with open(sys.argv[1], "wb") as out:
        for name, scales in TYPES.items():
            kind = gguf.GGMLQuantizationType[name]
            elements, size = gguf.GGML_QUANT_SIZES[kind]
            blocks = rng.integers(0, 256, (ELEMENTS // elements, size), np.uint8)
            for at in scales:
                halves = (rng.standard_normal(len(blocks)) * 2.0 ** rng.integers(-20, 4, len(blocks))).astype("<f2")
                blocks[:, at:at + 2] = halves.view(np.uint8).reshape(-1, 2)
            values = gguf.quants.dequantize(blocks.reshape(-1), kind).astype("<f4")
            out.write(struct.pack("<3I", kind.value, blocks.size, values.size))
            out.write(blocks.tobytes() + values.tobytes())


main()

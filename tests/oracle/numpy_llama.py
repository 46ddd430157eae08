#!/usr/bin/env python3
"""Logits of a Llama-family GGUF file in float64, plain numpy: what Spillway's `reference` device is held against.

Written from the papers (RMS norm 1910.07467, RoPE 2104.09864, GQA 2305.13245, SwiGLU 2002.05202) and the GGUF
specification, so that no line is shared with the runtime. Needs Python 3 and numpy.

    numpy_llama.py --model M.gguf --tokens 1,2,3 --out logits.npy     float32 [tokens x vocabulary], row i after token i
    numpy_llama.py --model M.gguf --tokens @ids.txt --out ... --kv f16      keys and values rounded as an f16 cache does
    numpy_llama.py ... --stride 20                                    rows 19, 39, ... alone
"""
import argparse
import pathlib
import re
import sys

import numpy as np

BLOCK = 32
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9


class Reader:
    """A cursor over the bytes of one GGUF file."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise ValueError(f"file ends at {len(self.data)}, {self.at + count} asked for")
        piece = self.data[self.at:self.at + count]
        self.at += count
        return piece

    def scalar(self, dtype):
        dtype = np.dtype(dtype)
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def text(self):
        return bytes(self.take(self.scalar("<u8"))).decode("utf-8")

    def value(self, kind):
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.scalar("<u4"), self.scalar("<u8")
            return [self.value(inner) for _ in range(count)]
        return self.scalar(SCALARS[kind])


def halves(raw):
    return np.ascontiguousarray(raw).view("<f2").astype(np.float64)


def bfloats(raw):
    return (np.ascontiguousarray(raw).view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def q8_0(raw):  # scale f16, 32 codes int8
    blocks = raw.reshape(-1, 34)
    return halves(blocks[:, :2]) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)


def nibbles(codes):  # low halves are elements 0..15, high halves 16..31
    return np.concatenate([codes & 15, codes >> 4], axis=1).astype(np.float64)


def q4_0(raw):  # scale f16, 32 codes of 4 bits, less 8
    blocks = raw.reshape(-1, 18)
    return halves(blocks[:, :2]) * (nibbles(blocks[:, 2:]) - 8)


def q4_1(raw):  # scale f16, minimum f16, 32 codes of 4 bits
    blocks = raw.reshape(-1, 20)
    return halves(blocks[:, :2]) * nibbles(blocks[:, 4:]) + halves(blocks[:, 2:4])


def fifth_bits(words):  # bit i of the four bytes, for element i
    return np.unpackbits(words, axis=1, bitorder="little").astype(np.float64)


def q5_0(raw):  # scale f16, 32 fifth bits, 32 nibbles, less 16
    blocks = raw.reshape(-1, 22)
    return halves(blocks[:, :2]) * (nibbles(blocks[:, 6:]) + 16 * fifth_bits(blocks[:, 2:6]) - 16)


def q5_1(raw):  # scale f16, minimum f16, 32 fifth bits, 32 nibbles
    blocks = raw.reshape(-1, 24)
    return halves(blocks[:, :2]) * (nibbles(blocks[:, 8:]) + 16 * fifth_bits(blocks[:, 4:8])) + halves(blocks[:, 2:4])


IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)


def iq4_nl(raw):  # scale f16, 32 nibbles that name values
    blocks = raw.reshape(-1, 18)
    return halves(blocks[:, :2]) * IQ4[nibbles(blocks[:, 2:]).astype(int)]


SUPER = 256


def planes(codes, width):
    """Codes of `width` bits out of groups of 32 bytes, lowest bits of all 32 first: [blocks x elements]."""
    groups = codes.reshape(len(codes), -1, 1, 32)
    shifts = np.arange(0, 8, width, dtype=np.uint8).reshape(1, 1, -1, 1)
    return (groups >> shifts & (1 << width) - 1).reshape(len(codes), -1)


def spread(scales, size):  # a scale for each of its elements
    return np.repeat(scales.astype(np.float64), size, axis=1)


def q2_k(raw):  # 16 scales and minima of 4 bits, 256 codes of 2, scale f16, minimum f16
    blocks = raw.reshape(-1, 84)
    d, m = halves(blocks[:, 80:82]), halves(blocks[:, 82:84])
    return d * spread(blocks[:, :16] & 15, 16) * planes(blocks[:, 16:80], 2) - m * spread(blocks[:, :16] >> 4, 16)


def q3_k(raw):  # 256 third bits, 256 codes of 2, 16 scales of 6 bits less 32, scale f16
    blocks = raw.reshape(-1, 110)
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    scales = np.concatenate([low & 15, low >> 4], axis=1) | np.concatenate([high >> s & 3 for s in (0, 2, 4, 6)], axis=1) << 4
    codes = planes(blocks[:, 32:96], 2) + 4.0 * planes(blocks[:, :32], 1) - 4
    return halves(blocks[:, 108:110]) * (spread(scales, 16) - 32) * codes


def six_bit_scales(packed):  # 8 scales and 8 minima in 12 bytes
    a, b, c = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    return (np.concatenate([a & 63, (c & 15) | (a >> 6) << 4], axis=1),
            np.concatenate([b & 63, (c >> 4) | (b >> 6) << 4], axis=1))


def q4_k(raw):  # scale f16, minimum f16, 8 scales and minima of 6 bits, 256 codes of 4
    blocks = raw.reshape(-1, 144)
    scales, minima = six_bit_scales(blocks[:, 4:16])
    d, m = halves(blocks[:, :2]), halves(blocks[:, 2:4])
    return d * spread(scales, 32) * planes(blocks[:, 16:], 4) - m * spread(minima, 32)


def q5_k(raw):  # as Q4_K, with 256 fifth bits before the codes
    blocks = raw.reshape(-1, 176)
    scales, minima = six_bit_scales(blocks[:, 4:16])
    d, m = halves(blocks[:, :2]), halves(blocks[:, 2:4])
    codes = planes(blocks[:, 48:], 4) + 16.0 * planes(blocks[:, 16:48], 1)
    return d * spread(scales, 32) * codes - m * spread(minima, 32)


def q6_k(raw):  # 256 low codes of 4 bits, 256 high ones of 2, 16 scales int8, scale f16
    blocks = raw.reshape(-1, 210)
    low = blocks[:, :128].reshape(len(blocks), 2, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(len(blocks), SUPER)
    codes = low + 16.0 * planes(blocks[:, 128:192], 2) - 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return halves(blocks[:, 208:210]) * spread(scales, 16) * codes


def iq4_xs(raw):  # scale f16, 8 scales of 6 bits less 32 (high bits, low nibbles), 8 times 32 nibbles that name values
    blocks = raw.reshape(-1, 136)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
    codes = nibbles(blocks[:, 8:].reshape(-1, 16)).reshape(len(blocks), SUPER)
    return halves(blocks[:, :2]) * (spread(low | high << 4, 32) - 32) * IQ4[codes.astype(int)]


# ggml's type number: elements of a block, bytes of a block, bytes to float64
TYPES = {
    0: (1, 4, lambda raw: np.ascontiguousarray(raw).view("<f4").astype(np.float64)),
    1: (1, 2, halves),
    30: (1, 2, bfloats),
    8: (BLOCK, 34, q8_0),
    2: (BLOCK, 18, q4_0),
    3: (BLOCK, 20, q4_1),
    6: (BLOCK, 22, q5_0),
    7: (BLOCK, 24, q5_1),
    20: (BLOCK, 18, iq4_nl),
    10: (SUPER, 84, q2_k),
    11: (SUPER, 110, q3_k),
    12: (SUPER, 144, q4_k),
    13: (SUPER, 176, q5_k),
    14: (SUPER, 210, q6_k),
    23: (SUPER, 136, iq4_xs),
}


class Gguf:
    """Facts and tensors of a GGUF file, all parts of a split one."""

    def __init__(self, path):
        self.meta, self.places = {}, {}
        path = pathlib.Path(path)
        split = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
        names = [path.name]
        if split:
            names = [f"{split[1]}-{i + 1:05}-of-{split[2]}.gguf" for i in range(int(split[2]))]
        for name in names:
            self.read_part(np.memmap(path.parent / name, np.uint8, "r"))

    def read_part(self, data):
        reader = Reader(data)
        if bytes(reader.take(4)) != b"GGUF" or reader.scalar("<u4") not in (2, 3):
            raise ValueError("not a GGUF file of version 2 or 3")
        tensors, facts = reader.scalar("<u8"), reader.scalar("<u8")
        meta = {}
        for _ in range(facts):
            key = reader.text()
            meta[key] = reader.value(reader.scalar("<u4"))
        entries = []
        for _ in range(tensors):
            name = reader.text()
            shape = [reader.scalar("<u8") for _ in range(reader.scalar("<u4"))]
            entries.append((name, shape, reader.scalar("<u4"), reader.scalar("<u8")))
        align = meta.get("general.alignment", 32)
        base = (reader.at + align - 1) // align * align
        for name, shape, kind, offset in entries:
            self.places[name] = (data, base + offset, shape, kind)
        self.meta = {**meta, **self.meta}

    def fact(self, key, default=None):
        value = self.meta.get(f"llama.{key}", default)
        if value is None:
            raise ValueError(f"llama.{key} is missing")
        return value

    def tensor(self, name):
        """float64 [rows x columns], or [columns] of a vector."""
        data, start, shape, kind = self.places[name]
        if kind not in TYPES:
            raise ValueError(f"{name}: type {kind} is not known")
        elements, size, decode = TYPES[kind]
        raw = data[start:start + int(np.prod(shape)) // elements * size]
        return decode(np.asarray(raw)).reshape(shape[::-1])


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x, positions, base, factors):
    """x [tokens x heads x dim]: elements 2i and 2i + 1 are turned by position * base^(-2i / dim) / factor_i."""
    dim = x.shape[-1]
    angle = positions[:, None] * base ** (-np.arange(0, dim, 2) / dim) / factors
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def attend(q, k, v):
    """q [tokens x heads x dim], k and v [tokens x kv heads x dim]: causal attention, [tokens x heads * dim]."""
    tokens, heads, dim = q.shape
    group = heads // k.shape[1]
    out = np.empty_like(q)
    hidden = np.triu(np.ones((tokens, tokens), bool), 1)
    for head in range(heads):
        scores = q[:, head] @ k[:, head // group].T / np.sqrt(dim)
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, head // group]
    return out.reshape(tokens, heads * dim)


def rounded(x, kind):
    return x if kind == "f64" else x.astype({"f16": np.float16, "f32": np.float32}[kind]).astype(np.float64)


def logits(model, tokens, kv="f64"):
    """float64 [tokens x vocabulary]; row i is what follows tokens[:i + 1]."""
    hidden, heads = model.fact("embedding_length"), model.fact("attention.head_count")
    kv_heads = model.fact("attention.head_count_kv", heads)
    dim = model.fact("attention.key_length", hidden // heads)
    eps = model.fact("attention.layer_norm_rms_epsilon")
    base = model.fact("rope.freq_base", 10000.0)
    if model.meta["general.architecture"] != "llama" or model.fact("rope.dimension_count", dim) != dim:
        raise ValueError("only the Llama family with whole heads rotated")
    positions = np.arange(len(tokens), dtype=np.float64)
    factors = model.tensor("rope_freqs.weight") if "rope_freqs.weight" in model.places else np.ones(dim // 2)
    x = model.tensor("token_embd.weight")[tokens]
    for layer in range(model.fact("block_count")):
        def weight(name, block=f"blk.{layer}."):
            return model.tensor(f"{block}{name}.weight")
        h = norm(x, weight("attn_norm"), eps)
        q = rotate((h @ weight("attn_q").T).reshape(-1, heads, dim), positions, base, factors)
        k = rotate((h @ weight("attn_k").T).reshape(-1, kv_heads, dim), positions, base, factors)
        v = (h @ weight("attn_v").T).reshape(-1, kv_heads, dim)
        x = x + attend(q, rounded(k, kv), rounded(v, kv)) @ weight("attn_output").T
        h = norm(x, weight("ffn_norm"), eps)
        gate = h @ weight("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ weight("ffn_up").T)) @ weight("ffn_down").T
    head = "output.weight" if "output.weight" in model.places else "token_embd.weight"
    return norm(x, model.tensor("output_norm.weight"), eps) @ model.tensor(head).T


def token_list(text):
    if text.startswith("@"):
        text = pathlib.Path(text[1:]).read_text()
    return [int(token) for token in re.split(r"[,\s]+", text.strip())]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tokens", required=True, help="ids with commas, or @FILE")
    parser.add_argument("--out", required=True, help=".npy")
    parser.add_argument("--kv", choices=["f64", "f32", "f16"], default="f64", help="what keys and values are rounded to")
    parser.add_argument("--stride", type=int, default=1, help="keep each STRIDE-th row")
    args = parser.parse_args()
    try:
        rows = logits(Gguf(args.model), token_list(args.tokens), args.kv)
    except (ValueError, KeyError, OSError) as error:
        print(f"numpy_llama.py: {args.model}: {error}", file=sys.stderr)
        return 3
    np.save(args.out, rows[args.stride - 1::args.stride].astype(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())

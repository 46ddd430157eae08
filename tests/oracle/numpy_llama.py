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


# ggml's type number: elements of a block, bytes of a block, bytes to float64
TYPES = {
    0: (1, 4, lambda raw: np.ascontiguousarray(raw).view("<f4").astype(np.float64)),
    1: (1, 2, halves),
    30: (1, 2, bfloats),
    8: (BLOCK, 34, q8_0),
    2: (BLOCK, 18, q4_0),
    3: (BLOCK, 20, q4_1),
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
            raise ValueError(f"{name}: type {kind} is not one of F32, F16, BF16, Q8_0, Q4_0, Q4_1")
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

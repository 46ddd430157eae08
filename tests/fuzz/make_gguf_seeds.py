#!/usr/bin/env python3
"""Writes the seeds of the GGUF reader's fuzzer: make_gguf_seeds.py tests/fuzz/corpus/gguf. Inputs that the fuzzer found lie
beside them under other names."""
import pathlib
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34),
         "BF16": (30, 1, 2)}
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
          "You are brief<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
          "'<|im_end|>' + '\n'}}{% endfor %}")


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value(kind, item):
    if kind == TEXT:
        return text(item)
    if kind == ARRAY:
        of, items = item
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, i) for i in items)
    return struct.pack("<" + PACK[kind], item)


def gguf(keys, tensors, version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for key, (kind, item) in keys.items():
        out += text(key) + struct.pack("<I", kind) + value(kind, item)
    offset = 0
    for name, (kind, dims) in tensors.items():
        number, block, block_bytes = TYPES[kind]
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        out += struct.pack("<IQ", number, offset)
        elements = 1
        for size in dims:
            elements *= size
        offset += -(-(elements // block * block_bytes) // alignment) * alignment
    return out + bytes(-len(out) % alignment) + struct.pack("<f", 1) * (offset // 4)


def llama_keys(pre="gpt-2", hidden=16, ffn=8):
    return {
        "general.architecture": (TEXT, "llama"), "llama.block_count": (U32, 1), "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, hidden), "llama.feed_forward_length": (U32, ffn),
        "llama.attention.head_count": (U32, 2), "llama.attention.head_count_kv": (U32, 1),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "tokenizer.ggml.model": (TEXT, "gpt2"),
        "tokenizer.ggml.pre": (TEXT, pre),
        "tokenizer.ggml.tokens": (ARRAY, (TEXT, ["<|im_end|>", "a", "b", "c", "ab", "abc", "\u0120", "\u0120a"])),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [3, 1, 1, 1, 1, 1, 1, 4])),
        "tokenizer.ggml.merges": (ARRAY, (TEXT, ["a b", "ab c", "\u0120 a"])),
        "tokenizer.ggml.eos_token_id": (U32, 0), "tokenizer.chat_template": (TEXT, CHATML),
    }


def llama_tensors(kind="F32", hidden=16, ffn=8):
    half = hidden // 2
    return {
        "token_embd.weight": (kind, [hidden, 8]), "output_norm.weight": ("F32", [hidden]),
        "blk.0.attn_norm.weight": ("F32", [hidden]), "blk.0.attn_q.weight": (kind, [hidden, hidden]),
        "blk.0.attn_k.weight": (kind, [hidden, half]), "blk.0.attn_v.weight": (kind, [hidden, half]),
        "blk.0.attn_output.weight": (kind, [hidden, hidden]), "blk.0.ffn_norm.weight": ("F32", [hidden]),
        "blk.0.ffn_gate.weight": (kind, [hidden, ffn]), "blk.0.ffn_up.weight": (kind, [hidden, ffn]),
        "blk.0.ffn_down.weight": (kind, [ffn, hidden]),
    }


def experts_tensors(apart, hidden=16, ffn=8, count=3):
    dense = llama_tensors("F32", hidden, ffn)
    tensors = {name: tensor for name, tensor in dense.items() if "ffn_" not in name or "norm" in name}
    tensors["blk.0.ffn_gate_inp.weight"] = ("F32", [hidden, count])
    for part, shape in (("gate", [hidden, ffn]), ("up", [hidden, ffn]), ("down", [ffn, hidden])):
        if apart:
            tensors |= {f"blk.0.ffn_{part}.{e}.weight": ("F16", shape) for e in range(count)}
        else:
            tensors[f"blk.0.ffn_{part}_exps.weight"] = ("F32", shape + [count])
    return tensors


def seeds():
    plain = gguf(llama_keys(), llama_tensors())
    yield "llama_v3", plain
    yield "llama_v2", gguf(llama_keys("smollm"), llama_tensors("F16"), version=2)
    for kind in ("Q4_0", "Q4_1", "Q8_0", "BF16"):
        keys = llama_keys("qwen2" if kind == "Q4_0" else "llama-bpe", 32, 32)
        tensors = llama_tensors(kind, 32, 32) | {"output.weight": (kind, [32, 8]), "rope_freqs.weight": ("F32", [8])}
        yield f"llama_{kind.lower()}", gguf(keys, tensors)
    aligned = llama_keys() | {"general.alignment": (U32, 64), "llama.rope.scaling.type": (TEXT, "linear"),
                              "llama.rope.scaling.factor": (F32, 1.0), "llama.rope.dimension_count": (U32, 4),
                              "tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.add_bos_token": (BOOL, True)}
    yield "llama_aligned", gguf(aligned, llama_tensors(), alignment=64)
    experts = llama_keys() | {"llama.expert_count": (U32, 3), "llama.expert_used_count": (U32, 2)}
    yield "llama_experts", gguf(experts, experts_tensors(False))
    yield "llama_experts_apart", gguf(experts | {"llama.expert_weights_norm": (BOOL, False)}, experts_tensors(True))
    parts = {"split.no": (U16, 0), "split.count": (U16, 2), "split.tensors.count": (I32, 11)}
    yield "part_1_of_2", gguf(llama_keys() | parts, llama_tensors())
    yield "parts", two_parts()
    yield "parts_of_three", two_parts(count=3)
    yield "parts_lack", two_parts(tensors=12)
    yield "parts_twice", two_parts(tensors=12, repeated=True)
    yield "split_of_one", gguf(llama_keys() | parts | {"split.count": (U16, 1)}, llama_tensors())
    every = {"k%d" % kind: (kind, 1) for kind in PACK} | {"text": (TEXT, "x")}
    every |= {"a%d" % kind: (ARRAY, (kind, [0, 1, 1])) for kind in PACK} | {"nested": (ARRAY, (ARRAY, [(U8, [1])]))}
    yield "every_value", gguf(every, {})
    every.pop("nested")
    yield "every_flat_value", gguf(every, {})
    yield "empty", gguf({}, {})
    yield "truncated", plain[:-1]
    yield "cut_header", plain[:300]
    yield "big_endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)
    yield "huge_counts", b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1)


def two_parts(count=2, tensors=11, repeated=False):
    """A '2', then two parts of as many bytes, as tests/fuzz/gguf_case.h has it."""
    names = list(llama_tensors().items())
    parts = []
    for i, own in enumerate((names[:6], names[5 if repeated else 6:])):
        split = {"split.no": (U16, i), "split.count": (U16, count), "split.tensors.count": (I32, tensors)}
        parts.append(gguf((llama_keys() if i == 0 else {}) | split, dict(own)))
    longest = max(map(len, parts))
    return b"2" + b"".join(part.ljust(longest, b"\0") for part in parts)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds():
        (folder / f"seed_{name}.gguf").write_bytes(data)


if __name__ == "__main__":
    main()

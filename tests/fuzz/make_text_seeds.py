#!/usr/bin/env python3
"""Writes the seeds of the fuzzers of texts: make_text_seeds.py tests/fuzz/corpus. Inputs that the fuzzers found lie beside them under other
names."""
import json
import pathlib
import sys

from make_gguf_seeds import ARRAY, BOOL, F32, I32, TEXT, U32, gguf

MARK = "\u2581"


def spm(**changes):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in (0x0A, 0x61, 0xC3, 0xA9, 0xFF)] + [MARK, "a", "b", "ab", MARK + "a", "<x>", "c", "abc"]
    types = [2, 3, 3] + [6] * 5 + [1] * 5 + [4, 1, 5]
    keys = {"general.architecture": (TEXT, "llama"), "tokenizer.ggml.model": (TEXT, "llama"), "tokenizer.ggml.tokens": (ARRAY, (TEXT, tokens)),
            "tokenizer.ggml.scores": (ARRAY, (F32, [-float(i) for i in range(len(tokens))])), "tokenizer.ggml.token_type": (ARRAY, (I32, types)),
            "tokenizer.ggml.unknown_token_id": (U32, 0), "tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.eos_token_id": (U32, 2)}
    return gguf(keys | changes, {})


def tokenizer_json(pre_tokenizer, normalizer=None, decoder=None, symbols="ab\u0120", **model):
    vocab = {c: i for i, c in enumerate(symbols)} | {"ab": len(symbols)}
    added = [{"id": len(vocab), "content": "<s>", "special": True, "normalized": False, "lstrip": True, "rstrip": True, "single_word": False},
             {"id": len(vocab) + 1, "content": "abc", "single_word": True, "normalized": True}]
    return json.dumps({"added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder,
                       "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
                       "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]} | model}).encode()


def tokenizers():
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    yield "byte_level", tokenizer_json(byte_level, decoder=byte_level, ignore_merges=True)
    regex = {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}|[^\s\p{L}]+|\s+(?!\S)|\s+|\w"}, "behavior": "MergedWithPrevious", "invert": False}
    yield "split", tokenizer_json({"type": "Sequence", "pretokenizers": [regex, {"type": "Digits", "individual_digits": True}, byte_level]},
                                  {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]})
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    strip = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                              {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    yield "fallback", tokenizer_json(None, {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, replace]}, strip, "ab" + MARK,
                                     byte_fallback=True, fuse_unk=True, unk_token="a")
    metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": True}
    yield "metaspace", tokenizer_json(metaspace, {"type": "NFKD"}, metaspace, "ab" + MARK)
    yield "punctuation", tokenizer_json({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"}, {"type": "WhitespaceSplit"}]}, {"type": "Strip"})
    yield "pair_merges", tokenizer_json(byte_level, merges=[["a", "b"]])
    yield "hostile_pattern", tokenizer_json({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"})
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    yield "doublings", tokenizer_json(byte_level, {"type": "Sequence", "normalizers": [doubling] * 40})
    yield "doublings_erased", tokenizer_json(byte_level, {"type": "Sequence", "normalizers": [doubling] * 20 + [doubling | {"content": ""}]})
    yield "decoder_doublings", tokenizer_json(None, None, {"type": "Sequence", "decoders": [doubling] * 40})
    yield "deep", b"[" * 3000
    yield "cut", tokenizer_json(byte_level)[:-20]
    named = [{"bos_token": {"content": "<s>"}, "eos_token": "abc", "add_bos_token": True,
              "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]}, {"unk_token": "a"}, {"eos_token_id": [1, -1, 1 << 40]}]
    yield "named", b"\0".join([tokenizer_json(byte_level, decoder=byte_level)] + [json.dumps(file).encode() for file in named])
    yield "gpt2", b"\0\0\0\0".join([b"", b'{"a":0,"b":1,"ab":2}\0#version: 0.2\na b\n'])
    yield "gpt2_no_pair", b'\0\0\0\0{"a":0}\0ab'


def templates():
    data = pathlib.Path(__file__).parent.parent / "loader" / "data" / "templates"
    for path in sorted(data.glob("*.jinja")):
        yield path.stem, path.read_bytes()
    yield "loops", b"{% for a, b in x.items() if a %}{{ loop.cycle(1, 2) }}{% else %}{% break %}{% endfor %}"
    yield "doubling", b"{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
    yield "recursion", b"{% macro m(x) %}{{ m(x ~ 'a') }}{% endmacro %}{{ m(1) }}"
    yield "integers", b"{{ 9223372036854775807 + 1 }}{{ 'x' * 99999999 }}{{ l[-9:9:-1] }}{{ 7 // 0 }}"
    yield "kept_caller", b"{% set ns = namespace() %}{% macro m() %}{% set ns.f = caller %}{% endmacro %}{% call m() %}x{% endcall %}{{ ns.f() }}"


def main():
    corpus = pathlib.Path(sys.argv[1])
    seeds = [("spm", "gguf", [("plain", spm()), ("no_prefix", spm(**{"tokenizer.ggml.add_space_prefix": (BOOL, False)})),
                              ("phi3", spm(**{"general.architecture": (TEXT, "phi3")})), ("no_scores", spm(**{"tokenizer.ggml.scores": (ARRAY, (F32, [1.0]))})),
                              ("nan", spm(**{"tokenizer.ggml.scores": (ARRAY, (F32, [float("nan")] * 16))}))]),
             ("tokenizer_json", "json", tokenizers()), ("chat_template", "jinja", templates())]
    for folder, suffix, items in seeds:
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        for name, data in items:
            (corpus / folder / f"seed_{name}.{suffix}").write_bytes(data)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Vocabularies with each family's pattern, trained small on a part of corpus.py's text, and what Hugging Face's tokenizers and the
sentencepiece library make of all of it: into tests/loader/data/text/NAME/ (tokenizer.json, or spm.json with the keys of a GGUF) and
tests/loader/data/text/digests.json (count and SHA-256 of the ids, 32 bits each). With the GGUFs of real models also their digests.

Needs `pip install tokenizers sentencepiece gguf protobuf` (written with 0.23.3, 0.2.3, 0.19.0). Usage: make_corpus_golden.py DATA [GGUF...]
"""
import hashlib
import io
import json
import pathlib
import struct
import sys

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from corpus import Rule, corpus

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?|\p{{N}}{{1,3}}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN35 = (CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
             r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(*steps):
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split(step) if isinstance(step, str) else step for step in steps] + [last])


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
BYTE_FAMILIES = {  # pre-tokenizer, normalizer, ignore_merges
    "opt": (GPT2, None, False),
    "llama3": (byte_level(LLAMA3), None, True),
    "qwen3": (byte_level(QWEN2), normalizers.NFC(), False),
    "qwen35": (byte_level(QWEN35), normalizers.NFC(), False),
    "tekken": (byte_level(TEKKEN), None, True),
    "gpt4o": (byte_level(GPT4O), None, False),
    "deepseek3": (byte_level(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3), None, False),
    "deepseek_coder": (byte_level(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
                                  pre_tokenizers.Digits(individual_digits=True)), None, False),
}
GGUF_PATTERNS = {"smollm": (SMOLLM, False), "qwen2": (byte_level(QWEN2), False), "llama-bpe": (byte_level(LLAMA3), True), "gpt-2": (GPT2, False),
                 "deepseek-coder": (BYTE_FAMILIES["deepseek_coder"][0], False), "qwen35": (byte_level(QWEN35), False), "command-r": (SMOLLM, False)}


def training_texts():
    return corpus(150_000, seed=7).splitlines(keepends=True)


def byte_tokenizer(family):
    pre_tokenizer, normalizer, ignore_merges = BYTE_FAMILIES[family]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(training_texts(), trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    tokenizer.add_special_tokens([AddedToken("<|begin|>", special=True, normalized=False), AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("whole", single_word=True, lstrip=True, normalized=True)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    return tokenizer


def spm_model(size, **options):
    sink = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.strip("\r\n") for line in training_texts() if "\0" not in line), model_writer=sink, model_type="bpe", vocab_size=size,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        max_sentence_length=100000, num_threads=1, minloglevel=2, **options)
    return sink.getvalue()


SPM_FAMILIES = {
    "llama2": dict(size=2000, split_digits=True, allow_whitespace_only_pieces=True),
    "gemma": dict(size=2000, split_digits=True, allow_whitespace_only_pieces=True, add_dummy_prefix=False, user_defined_symbols=["\n\n", "<table>"]),
    "across_words": dict(size=1800, split_by_whitespace=False),
}


def spm_keys(serialized):
    proto = spm_proto.ModelProto.FromString(serialized)
    kinds = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}  # the same numbers there and in GGUF
    return {"tokens": [p.piece for p in proto.pieces], "scores": [round(p.score, 6) for p in proto.pieces],
            "types": [kinds[p.type] for p in proto.pieces], "space_prefix": proto.normalizer_spec.add_dummy_prefix,
            "unknown": proto.trainer_spec.unk_id, "bos": proto.trainer_spec.bos_id, "eos": proto.trainer_spec.eos_id}


def fallback_tokenizer(keys, legacy):
    """What transformers makes of such a model: BPE whose merges are all ways a piece falls in two, best score first."""
    ids = {text: i for i, text in enumerate(keys["tokens"])}
    merges = []
    for text, score, kind in zip(keys["tokens"], keys["scores"], keys["types"]):
        if kind == 1:
            merges += [(-score, ids[text[:i]], ids[text[i:]], text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
    merges.sort()
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[m[3:] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", "first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    tokenizer.add_special_tokens(specials)
    tokenizer.add_special_tokens([AddedToken("<|user|>", special=True, normalized=False, rstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def digest(ids):
    return {"ids": len(ids), "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()}


def gguf_fields(path):
    import gguf
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if key.startswith(("tokenizer.", "general.architecture"))}


def real_encoder(path):
    """The library's encoder for a GGUF's vocabulary: tokenizers for gpt2, sentencepiece for llama."""
    fields = gguf_fields(path)
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    if fields["tokenizer.ggml.model"] == "gpt2":
        pre_tokenizer, ignore_merges = GGUF_PATTERNS[fields["tokenizer.ggml.pre"]]
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, ignore_merges=ignore_merges,
                                         merges=[tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]))
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k in (3, 4)])
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    proto = spm_proto.ModelProto()
    unknown = fields["tokenizer.ggml.unknown_token_id"]
    for i, (text, score, kind) in enumerate(zip(tokens, fields["tokenizer.ggml.scores"], types)):
        kind = 2 if i == unknown else 3 if kind == 2 else kind
        # GGUF writes the spaces of user-defined pieces out.
        proto.pieces.add(piece=text.replace(" ", "\u2581") if kind == 4 else text, score=score, type=kind)
    proto.trainer_spec.model_type = spm_proto.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_id = unknown
    proto.trainer_spec.unk_piece = tokens[unknown]
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.add_dummy_prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    return processor.encode


CASES = ["", " ", "a", "The whole whole,whole wholewhole  whole x", "<|im_end|>", "a<|im_end|> b <tool_call>{\"a\": 1}<tool_call>", "<s>a</s> <unk>",
         "<|user|>\n  Hi\u00a0<|user|> x<|user|>", "e\u0301\u0323 \u212b \u1112\u1161\u11ab", "don't DON'T it\u2019s", "  two  spaces\n\n\tx  ", "\U0001f642\u6771\u4eac 12345"]


def write_cases(folder):
    """cases.json: texts, their ids with special tokens, and with the texts of special tokens taken as plain text."""
    tokenizer, cases = Tokenizer.from_file(str(folder / "tokenizer.json")), []
    for text in CASES:
        tokenizer.encode_special_tokens = False
        case = {"text": text, "ids": tokenizer.encode(text).ids}
        tokenizer.encode_special_tokens = True
        cases.append(case | {"plain": tokenizer.encode(text, add_special_tokens=False).ids})
    (folder / "cases.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


def main():
    data = pathlib.Path(sys.argv[1])
    text, digests = corpus(), {}
    vocabularies = {f"hf_{family}": byte_tokenizer(family) for family in BYTE_FAMILIES}
    for family, options in SPM_FAMILIES.items():
        serialized = spm_model(**options)
        folder = data / f"spm_{family}"
        folder.mkdir(parents=True, exist_ok=True)
        keys = spm_keys(serialized)
        (folder / "spm.json").write_text(json.dumps(keys, ensure_ascii=False, separators=(",", ":")) + "\n")
        digests[folder.name] = digest(sentencepiece.SentencePieceProcessor(model_proto=serialized).encode(text))
        if family == "llama2":
            vocabularies["hf_llama2"] = fallback_tokenizer(keys, legacy=True)
            vocabularies["hf_mistral"] = fallback_tokenizer(keys, legacy=False)
    for name, tokenizer in vocabularies.items():
        (data / name).mkdir(parents=True, exist_ok=True)
        written = json.loads(tokenizer.to_str())
        (data / name / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False, separators=(",", ":")) + "\n")
        write_cases(data / name)
        digests[name] = digest(tokenizer.encode(text, add_special_tokens=False).ids)
    for path in sys.argv[2:]:
        digests[pathlib.Path(path).name] = digest(real_encoder(path)(text))
    (data / "digests.json").write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(digests.items())) + "\n}\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tokenizer_*.json: tiny vocabularies, texts, and the ids Hugging Face's tokenizers give them; with the GGUF of
SmolLM2-135M-Instruct also smollm2_ids.json, the ids under its vocabulary.

Needs `pip install tokenizers gguf` (written with 0.23.3 and 0.19.0). Usage: make_tokenizer_golden.py FOLDER [SMOLLM2.gguf]
"""
import json
import pathlib
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<tool>", "<tool>s", "\u00fcber"]
UNREACHABLE = "\u0120whole"  # no merge makes it: found only where merges are ignored

TRAINING = [
    "The weights lie on the drive, the host and the device; what is needed next is already on its way.",
    "the then there their these them that this with which while when where whether",
    "I'll say it's what they've said: we're here, you'd know, I'm sure, don't worry. I'LL SAY IT'S WHAT THEY'VE SAID",
    "for (int i = 0; i < 100; ++i) {\n        sum += values[i];\n    }\n\n\n\treturn sum;\n",
    "2024 1999 123 1234 12345 3.14159 100000",
    "Der Fluss fließt über Wiesen und Wälder, für alle.",
    "Москва это город, и в городе живут люди",
    "東京都は日本の首都です。日本語の文章。",
    "a\u0300 e\u0301 \U0001f642\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467",
]

TEXTS = [
    "",
    "a",
    " ",
    "The weights lie where they're needed, don't they?",
    "I'LL SAY IT'S what They'Ve said; 'tis, 's, 'S, ''s, x's' 'd'D'm'M",
    "it\u2019s not an apostrophe; neither is \u02bc; 'ſ is a long s",
    "  two   three    four     ends with spaces   ",
    "\n\n\n  \n\t\tfoo\r\n\r\nbar \n baz\n",
    "a\u00a0b\u2003c\u3000d\u0085e\u180ef\u200bg\ufeffh\u2028i\u2029j\x0bk\x0cl\x1cm",
    "1 12 123 1234 12345 123456 1234567, 3.14 1a2b3c a1 1 a  1",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \u2160\u2161 \u00bd\u00b2 \u2460x \U0001d7ce\U0001d7cf",
    "for (int i = 0; i < 100; ++i) {\n        sum += values[i];\n    }\n",
    "über Wälder fließt a\u0300e\u0301 \u0301\u0301x",
    "Москва, город людей! 東京都は日本の首都。日本語",
    "\U0001f642 \U0001f642\U0001f642!\U0001f468\u200d\U0001f469\u200d\U0001f467 \U00010348\U0010fffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa tttttthehehehehe",
    "the whole whole wholewhole   whole",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<tool>s <tools <tool>x<|endoftext|><|endoftext|> <|im_end <||im_end|>",
    "\x00\x01\x02\x1f\x7f !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
]

FAMILIES = {
    # tokenizer.ggml.pre: pre-tokenizer, whether every byte is in the vocabulary, whether merges are ignored
    "smollm": (Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]), False, False),
    "gpt-2": (ByteLevel(add_prefix_space=False), True, False),
    "llama-bpe": (Sequence([Split(Regex(LLAMA3), "isolated"), ByteLevel(False, use_regex=False)]), True, True),
    "qwen2": (Sequence([Split(Regex(QWEN2), "isolated"), ByteLevel(False, use_regex=False)]), True, False),
}


def train(pre_tokenizer, all_bytes):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = ByteLevel.alphabet() if all_bytes else []
    tokenizer.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=420, min_frequency=2, show_progress=False,
                                                                initial_alphabet=sorted(alphabet)))
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [text for text, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    return tokens, [tuple(merge) for merge in model["merges"]]


def tokenizer_of(tokens, merges, pre_tokenizer, ignore_merges, added):
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges,
                                     ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return tokenizer


def golden(pre):
    pre_tokenizer, all_bytes, ignore_merges = FAMILIES[pre]
    learned, merges = train(pre_tokenizer, all_bytes)
    tokens = CONTROL + learned + [UNREACHABLE] + USER_DEFINED
    types = [3] * len(CONTROL) + [1] * (len(learned) + 1) + [4] * len(USER_DEFINED)
    plain = tokenizer_of(tokens, merges, pre_tokenizer, ignore_merges, USER_DEFINED)
    special = tokenizer_of(tokens, merges, pre_tokenizer, ignore_merges, USER_DEFINED + CONTROL)
    cases = [{"text": text, "plain": plain.encode(text).ids, "special": special.encode(text).ids} for text in TEXTS]
    return {"pre": pre, "tokens": tokens, "types": types, "merges": [" ".join(m) for m in merges], "cases": cases}


def smollm2_ids(path):
    import gguf
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    control = [text for text, kind in zip(tokens, types) if kind == 3]
    tokenizer = tokenizer_of(tokens, merges, FAMILIES["smollm"][0], False, control)
    cases = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS + TRAINING]
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "]\n"


def one_line_per_item(data):
    lines = []
    for key, value in data.items():
        if key == "cases":
            text = "[\n" + ",\n".join(json.dumps(case) for case in value) + "]"
        else:
            text = json.dumps(value)
        lines.append(f"{json.dumps(key)}: {text}")
    return "{" + ",\n".join(lines) + "}\n"


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for pre in FAMILIES:
        (folder / f"tokenizer_{pre}.json").write_text(one_line_per_item(golden(pre)))
    if len(sys.argv) > 2:
        (folder / "smollm2_ids.json").write_text(smollm2_ids(sys.argv[2]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Tokenises corpus.py's text with the `tokenize` tool under every vocabulary that digests.json knows and that is there, and compares the ids
with the digests: compare_corpus.py TOKENIZE DATA [FOLDER-OF-GGUFS...]. Without a GGUF of a real model, its row is skipped with a sentence."""
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "fuzz"))
from corpus import corpus  # noqa: E402
from make_gguf_seeds import ARRAY, BOOL, F32, I32, TEXT, U32, gguf  # noqa: E402


def spm_gguf(keys):
    return gguf({"general.architecture": (TEXT, "llama"), "tokenizer.ggml.model": (TEXT, "llama"),
                 "tokenizer.ggml.tokens": (ARRAY, (TEXT, keys["tokens"])), "tokenizer.ggml.scores": (ARRAY, (F32, keys["scores"])),
                 "tokenizer.ggml.token_type": (ARRAY, (I32, keys["types"])),
                 "tokenizer.ggml.add_space_prefix": (BOOL, keys["space_prefix"]),
                 "tokenizer.ggml.unknown_token_id": (U32, keys["unknown"]), "tokenizer.ggml.bos_token_id": (U32, keys["bos"]),
                 "tokenizer.ggml.eos_token_id": (U32, keys["eos"])}, {})


def vocabulary(name, data, folders, work):
    """The file to give to the tool; None where there is none."""
    folder = data / name
    if (folder / "tokenizer.json").exists():
        return folder / "tokenizer.json"
    if (folder / "spm.json").exists():
        path = work / f"{name}.gguf"
        path.write_bytes(spm_gguf(json.loads((folder / "spm.json").read_text())))
        return path
    return next((path for path in (pathlib.Path(f) / name for f in folders) if path.exists()), None)


def main():
    tool, data, folders = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
    if not pathlib.Path(tool).exists():
        print(f"{tool} was not built")
        return 0
    wrong = compared = 0
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "corpus").write_bytes(corpus().encode())
        for row, golden in json.loads((data / "digests.json").read_text()).items():
            path = vocabulary(row, data, folders, work)
            if path is None:
                print(f"{row}: skipped, the model is not there")
                continue
            run = subprocess.run([tool, path, work / "corpus", work / "ids"], capture_output=True, text=True)
            if "; known types: " in run.stderr:
                print(f"{row}: skipped, its tensors are of a type that is not read yet")
                continue
            ids = (work / "ids").read_bytes() if run.returncode == 0 else b""
            # NFC is a part of some tokenizers: what comes back is the normal form.
            comes_back = "comes back" in run.stdout or row in ("hf_qwen3", "hf_qwen35")
            same = hashlib.sha256(ids).hexdigest() == golden["sha256"] and comes_back
            print(f"{row}: {'same ids' if same else 'DIFFERS'} ({len(ids) // 4} of {golden['ids']}): {run.stdout.strip()}{run.stderr.strip()}")
            wrong += not same
            compared += 1
    return 1 if wrong or compared < 10 else 0


if __name__ == "__main__":
    sys.exit(main())

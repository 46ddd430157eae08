#!/usr/bin/env python3
"""Is Spillway's arithmetic right? Perplexity beside llama-perplexity over the same windows of a text, then, for windows spread
over the text, the KL divergence and the top-1 agreement of full-precision logits.

    quality.py --spillway build/apps/spillway --llama-bin DIR --tools build/perf --model M.gguf --text TEXT.txt

--tools holds llama_logits (cmake -DSPILLWAY_LLAMA_CPP=DIR) and compare_logits. Each window's logits (tokens x vocabulary,
float32) are compared and deleted in turn: the largest need is three such files, of 100 MB each for 512 tokens of a vocabulary of
49152. The `reference` device computes in double with plain loops, so it has fewer windows (--reference-windows). On those llama.cpp is also
compared with itself, prefill with one token at a time: what rounding alone does to the agreement of the same program.
"""
import argparse
import json
import pathlib
import re
import tempfile

import common


# llama-perplexity prints by a thread that its exit does not wait for: the last lines may be lost. So it is given some windows
# more, and the running value of the last one that counts is taken.
MARGIN = 4


def llama_perplexity(args, text, windows):
    out, _ = common.run([args.llama_bin / "llama-perplexity", "-m", args.model, "-f", text, "-c", args.context,
                         "-t", args.threads, "--chunks", windows + MARGIN])
    running = re.search(rf"\[{windows}\]([0-9.]+),", out)
    if not running:
        raise common.PeerError(f"llama-perplexity prints no value for window {windows}: {out[-200:]!r}")
    return float(running[1])


def spillway_perplexity(args, text, windows):
    out, _ = common.run([args.spillway, "score", "-m", args.model, "-f", text, "-c", args.context, "-t", args.threads,
                         "--chunks", windows, "--json", *args.spillway_args.split()])
    return common.rows_of(out)[0]


def token_ids(args, text):
    out, _ = common.run([args.llama_bin / "llama-tokenize", "-m", args.model, "-f", text, "--ids", "--no-parse-special",
                         "--log-disable"])
    listed = re.search(r"\[([0-9,\s]+)\]", out)
    if not listed:
        raise common.PeerError("llama-tokenize prints no list of ids")
    return [int(token) for token in listed[1].split(",")]


def logits(args, who, ids, path):
    """Writes `who`'s logits of one window."""
    prefill = ["--prefill", args.prefill] if args.prefill else []
    if who.startswith("llama"):
        if who == "llama, one at a time":
            prefill = ["--prefill", 1]
        common.run([args.tools / "llama_logits", "-m", args.model, "--tokens", f"@{ids}", "-o", path, "-t", args.threads,
                    *prefill])
        return
    device = ["--device", "reference"] if who == "reference" else args.spillway_args.split()
    common.run([args.spillway, "score", "-m", args.model, "--tokens", f"@{ids}", "--logits", path, "-t", args.threads, "--json",
                *device, *prefill])


def pooled(rows):
    """Of several windows' comparisons."""
    count = sum(row["rows"] for row in rows)
    return {"rows": count, "kl_mean": sum(row["kl_mean"] * row["rows"] for row in rows) / count,
            "kl_max": max(row["kl_max"] for row in rows), "top1": sum(row["top1_same"] for row in rows) / count}


def compare_windows(args, ids, folder):
    windows = len(ids) // args.context
    chosen = sorted({i * windows // args.windows for i in range(min(args.windows, windows))})
    referenced = set(chosen[:: max(1, len(chosen) // args.reference_windows)][: args.reference_windows]
                     if args.reference_windows else [])
    pairs = {"spillway against llama.cpp": [], "llama.cpp, one token at a time, against itself": [],
             "spillway against reference": [], "llama.cpp against reference": []}
    for window in chosen:
        listed = folder / "tokens.txt"
        listed.write_text(",".join(map(str, ids[window * args.context:(window + 1) * args.context])))
        files = {who: folder / f"{who}.npy" for who in ("llama", "spillway", "llama, one at a time", "reference")}
        for who, path in files.items():
            if who in ("llama", "spillway") or window in referenced:
                logits(args, who, listed, path)

        def compare(base, *others):
            return common.rows_of(common.run([args.tools / "compare_logits", files[base], *(files[o] for o in others)])[0])

        pairs["spillway against llama.cpp"] += compare("llama", "spillway")
        if window in referenced:
            pairs["llama.cpp, one token at a time, against itself"] += compare("llama", "llama, one at a time")
            ours, theirs = compare("reference", "spillway", "llama")
            pairs["spillway against reference"].append(ours)
            pairs["llama.cpp against reference"].append(theirs)
        for path in files.values():
            path.unlink(missing_ok=True)
    return {name: pooled(rows) for name, rows in pairs.items() if rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--llama-bin", required=True, type=pathlib.Path,
                        help="folder of llama-perplexity and llama-tokenize")
    parser.add_argument("--tools", required=True, type=common.program, help="folder of llama_logits and compare_logits")
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("-c", "--context", type=int, default=512, help="tokens of a window")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=40, help="whose logits are compared; 0: perplexity alone")
    parser.add_argument("--reference-windows", type=int, default=4, help="of them also by the reference device")
    parser.add_argument("--prefill", type=int, default=0, help="this many tokens by prefill, the rest one at a time, both")
    parser.add_argument("--no-perplexity", action="store_true")
    parser.add_argument("--chunks", type=int, default=0, help="only the first so many windows; default all but the last 4")
    parser.add_argument("--spillway-args", default="", help="more flags for spillway score, in one string")
    parser.add_argument("-o", "--out", type=pathlib.Path, help="all figures as JSON")
    args = parser.parse_args()

    result = {"model": args.model, "context": args.context}
    with tempfile.TemporaryDirectory(dir=args.out.absolute().parent if args.out else None) as scratch:
        folder = pathlib.Path(scratch)
        ids = token_ids(args, args.text)
        windows = min(len(ids) // args.context - MARGIN, args.chunks or len(ids))
        if windows < 1:
            raise common.PeerError(f"{args.text}: {len(ids)} tokens are fewer than {MARGIN + 1} windows of {args.context}")
        ids = ids[:windows * args.context]
        result["tokens"] = len(ids)
        print(f"{len(ids)} tokens, {windows} windows of {args.context}", flush=True)
        if not args.no_perplexity:
            theirs = llama_perplexity(args, args.text, windows)
            ours = spillway_perplexity(args, args.text, windows)
            result["perplexity"] = {"spillway": ours["ppl"], "llama": theirs,
                                    "difference": ours["ppl"] / theirs - 1, "tokens_scored": ours["tokens"]}
            print("\n" + common.table(["perplexity", "value"], [
                ["spillway", f"{ours['ppl']:.4f}"], ["llama.cpp", f"{theirs:.4f}"],
                ["difference", f"{100 * (ours['ppl'] / theirs - 1):+.3f} %"]]))
        if args.windows:
            result["logits"] = compare_windows(args, ids, folder)
            print("\n" + common.table(["logits", "rows", "mean KL (nats)", "largest KL", "same top-1"], [
                [name, row["rows"], f"{row['kl_mean']:.3g}", f"{row['kl_max']:.3g}", f"{100 * row['top1']:.2f} %"]
                for name, row in result["logits"].items()]))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

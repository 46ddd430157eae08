#!/usr/bin/env python3
"""A batch file through Spillway beside llama.cpp: the same requests, model and threads, in turn, greedily; tokens a second to the end.

    batch.py --spillway build/cpu/apps/spillway --llama-batch build/cpu/perf/llama_batch --model M.gguf --text T.txt -o OUT.json

Prompts are stretches of the text of mixed lengths; answers have mixed lengths too, and no end token ends them. Spillway runs as its
users run it, and chooses how many requests share a pass; llama.cpp (continuous batching over its API) is given each number of
--sequences, with one KV buffer and with one for each sequence, on the first --trial requests, and the best of these then runs. Loading counts for neither.
"""
import argparse
import json
import pathlib
import random
import tempfile

import common


def write_requests(path, text, args, count):
    draw = random.Random(1)
    words = text.split()
    with open(path, "w", encoding="utf-8") as out:
        for i in range(count):
            length = draw.randint(args.prompt // 4, args.prompt)
            at = draw.randrange(len(words) - length)
            body = {"prompt": " ".join(words[at:at + length]), "max_tokens": draw.randint(args.answer // 4, args.answer), "temperature": 0}
            out.write(json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}) + "\n")


def speed(report):
    return (report["tokens_in"] + report["tokens_out"]) / report["seconds"]


def spillway(args, requests):
    with tempfile.TemporaryDirectory() as folder:
        out = common.run([args.spillway, "batch", "-m", args.model, "-i", requests, "-o", pathlib.Path(folder) / "out.jsonl", "-t", args.threads,
                          "--ignore-eos", "--json", *args.spillway_args.split()])[0]
    report = json.loads(out)
    if report["errors"] or report["answered"] != report["requests"]:
        raise common.PeerError(f"{report['errors']} of {report['requests']} requests have an error")
    return report


def llama(args, requests, sequences, unified):
    command = [args.llama_batch, "-m", args.model, "-i", requests, "-t", args.threads, "--sequences", sequences]
    return json.loads(common.run([*command, *(["--unified"] if unified else [])])[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--llama-batch", required=True, type=common.program)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--trial", type=int, default=64, help="requests that llama.cpp's settings are compared on")
    parser.add_argument("--sequences", default="8,32,64")
    parser.add_argument("--prompt", type=int, default=96, help="words of a prompt at most; a quarter at least")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer at most; a quarter at least")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--spillway-args", default="", help="more flags for spillway batch, in one string")
    parser.add_argument("-o", "--out", type=pathlib.Path)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        trial, requests = pathlib.Path(folder) / "trial.jsonl", pathlib.Path(folder) / "requests.jsonl"
        text = args.text.read_text(encoding="utf-8", errors="replace")
        write_requests(trial, text, args, args.trial)
        write_requests(requests, text, args, args.requests)
        settings = [(int(n), unified) for n in args.sequences.split(",") for unified in (False, True)]
        trials = [{"sequences": n, "unified": unified, "tokens_per_second": speed(llama(args, trial, n, unified))} for n, unified in settings]
        best = max(trials, key=lambda row: row["tokens_per_second"])
        rounds = []
        for _ in range(args.rounds):
            ours, theirs = spillway(args, requests), llama(args, requests, best["sequences"], best["unified"])
            rounds.append({"spillway": ours, "llama": theirs, "ratio": speed(ours) / speed(theirs)})

    ratio = common.summary([row["ratio"] for row in rounds])
    lines = [[pathlib.Path(args.model).name, f"{speed(row['spillway']):.1f}", f"{speed(row['llama']):.1f}", f"{row['ratio']:.2f}",
              f"{row['spillway']['mean_batch']:.1f}", f"{best['sequences']}{', one buffer' if best['unified'] else ''}",
              f"{row['spillway']['expected_s'] / row['spillway']['passes_s']:.2f}"] for row in rounds]
    print(common.table(["model", "spillway tok/s", "llama.cpp tok/s", "ratio", "answers a pass", "llama.cpp's requests at once",
                        "of the speed expected"], lines))
    if args.out:
        args.out.write_text(json.dumps({"batch": rounds, "ratio": ratio, "llama_trials": trials, "model": pathlib.Path(args.model).name,
                                        "requests": args.requests, "prompt_words": args.prompt, "answer_tokens": args.answer,
                                        "threads": args.threads}, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

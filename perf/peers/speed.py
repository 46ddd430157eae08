#!/usr/bin/env python3
"""Decode and prefill speed of Spillway beside llama.cpp: same file, same threads, runs in turn (A B A B), ratios of neighbours.

    speed.py --spillway build/apps/spillway --llama-bin DIR --model M.gguf [-t 2] [-p 512] [-n 128] [--rounds 5] [-o OUT.json]

The table goes to stdout. `limits` programs (--limits, may be given more than once) run between the rounds; what they print is
kept beside the speeds, for a speed means little without the machine's own peak.
"""
import argparse
import json
import pathlib

import common


def speeds(command):
    """{"pp": tokens/s, "tg": tokens/s} of one run, and its rows."""
    rows = common.rows_of(common.run(command)[0])
    found = {}
    for row in rows:
        if "avg_ts" in row and row.get("n_prompt", 0) and not row.get("n_gen", 0):
            found["pp"] = float(row["avg_ts"])
        elif "avg_ts" in row and row.get("n_gen", 0) and not row.get("n_prompt", 0):
            found["tg"] = float(row["avg_ts"])
    return found, rows


def markdown(result, args):
    lines = []
    for kind, name in (("pp", f"prefill {args.prompt}"), ("tg", f"decode {args.gen}")):
        if kind not in result["ratio"]:
            continue
        ours, theirs, ratio = (result[key][kind] for key in ("spillway", "llama", "ratio"))
        lines.append([name, f"{ours['median']:.1f}", f"{theirs['median']:.1f}",
                      f"{ratio['median']:.2f}", f"{ratio['min']:.2f} to {ratio['max']:.2f}", result["beside"][kind]])
    head = ["work", "spillway tok/s", "llama.cpp tok/s", "ratio (median)", "ratio (spread)", "spillway's rate"]
    return common.table(head, lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--llama-bin", required=True, type=pathlib.Path, help="folder of llama-bench")
    parser.add_argument("--model", required=True)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-p", "--prompt", type=int, default=512)
    parser.add_argument("-n", "--gen", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--spillway-args", default="", help="more flags for spillway bench, in one string")
    parser.add_argument("--llama-args", default="", help="more flags for llama-bench, in one string")
    parser.add_argument("--limits", action="append", default=[], help="a command that prints the machine's peaks as JSON")
    parser.add_argument("-o", "--out", type=pathlib.Path, help="all figures as JSON")
    args = parser.parse_args()

    _, read = common.model_bytes(args.model)
    shared = ["-m", args.model, "-p", args.prompt, "-n", args.gen, "-t", args.threads, "-r", 1, "-o", "json"]
    commands = {
        "spillway": [args.spillway, "bench", *shared, *args.spillway_args.split()],
        "llama": [args.llama_bin / "llama-bench", *shared, *args.llama_args.split()],
    }
    samples = {name: {"pp": [], "tg": []} for name in commands}
    first_rows, limits = {}, []
    for _ in range(args.rounds):
        for limit in args.limits:
            limits.append(common.rows_of(common.run(limit.split())[0]))
        for name, command in commands.items():
            found, rows = speeds(command)
            first_rows.setdefault(name, rows)
            wanted = {kind for kind, count in (("pp", args.prompt), ("tg", args.gen)) if count}
            if wanted - set(found):
                raise common.PeerError(f"{name}: no avg_ts for {', '.join(sorted(wanted - set(found)))} in its JSON")
            for kind in wanted:
                samples[name][kind].append(found[kind])

    parameters = next((row["model_n_params"] for row in first_rows["llama"] if "model_n_params" in row), 0)
    kinds = [kind for kind in ("pp", "tg") if samples["llama"][kind]]
    result = {name: {kind: common.summary(samples[name][kind]) for kind in kinds} for name in commands}
    result["ratio"] = {kind: common.summary([a / b for a, b in zip(samples["spillway"][kind], samples["llama"][kind])])
                       for kind in kinds}
    result["beside"] = {
        "pp": f"{2e-9 * parameters * result['spillway']['pp']['median']:.1f} GFLOP/s" if "pp" in kinds else "",
        "tg": f"{1e-9 * read * result['spillway']['tg']['median']:.2f} GB/s of weights" if "tg" in kinds else "",
    }
    result.update(model=args.model, threads=args.threads, weight_bytes_per_token=read, limits=limits, rows=first_rows)
    print(markdown(result, args))
    for measured in limits[:1]:
        print("\nlimits: " + json.dumps(measured))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

#!/usr/bin/env python3
"""From the start of the process to its first token: Spillway beside llama.cpp on the same file, prompt and threads, runs in turn.

    startup.py --spillway build/apps/spillway --tools build/perf --model M.gguf [-t 2] [--rounds 5] [-o OUT.json]

--tools holds llama_first_token (cmake -DSPILLWAY_LLAMA_CPP=DIR). *warm*: the file is in the page cache. *cold*: it was taken out
before each run (as root all of the page cache, so the programs' own files too). *first start*: Spillway with an empty cache
folder, as a new user has it: it measures the machine. The time ends with the first byte on stdout.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

import common


def first_byte(command, environment):
    """Seconds from the start to the first byte on stdout."""
    start = time.monotonic()
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment) as child:
        if not child.stdout.read(1):
            raise common.PeerError(f"{command[0]} prints nothing: {child.stderr.read().decode(errors='replace')[-500:]}")
        seconds = time.monotonic() - start
        child.communicate()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--tools", required=True, type=common.program, help="folder of llama_first_token")
    parser.add_argument("--model", required=True)
    parser.add_argument("-p", "--prompt", default="def fibonacci(n):")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-o", "--out", type=pathlib.Path, help="all figures as JSON")
    args = parser.parse_args()

    shared = ["-m", args.model, "-t", args.threads, "-p", args.prompt]
    commands = {"spillway": [args.spillway, "generate", *shared, "-n", 1, "--temp", 0],
                "llama": [args.tools / "llama_first_token", *shared]}
    samples = {state: {name: [] for name in commands} for state in ("warm", "cold")}
    first = []
    with tempfile.TemporaryDirectory() as kept:
        environment = dict(os.environ, XDG_CACHE_HOME=kept)
        for command in commands.values():
            first_byte(command, environment)
        for _ in range(args.rounds):
            for state, times in samples.items():
                for name, command in commands.items():
                    if state == "cold":
                        common.forget(args.model)
                    times[name].append(first_byte(command, environment))
            with tempfile.TemporaryDirectory() as empty:
                first.append(first_byte(commands["spillway"], dict(os.environ, XDG_CACHE_HOME=empty)))

    result = {"model": args.model, "threads": args.threads, "prompt": args.prompt,
              "first_start": common.summary(first)}
    lines = []
    for state, times in samples.items():
        ratio = common.summary([ours / theirs for ours, theirs in zip(times["spillway"], times["llama"])])
        result[state] = {**{name: common.summary(values) for name, values in times.items()}, "ratio": ratio}
        ours, theirs = (result[state][name]["median"] for name in ("spillway", "llama"))
        lines.append([state, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio['median']:.2f}",
                      f"{ratio['min']:.2f} to {ratio['max']:.2f}"])
    lines.append(["first start", f"{common.median(first):.2f}", "", "", ""])
    print(common.table(["page cache", "spillway s", "llama.cpp s", "ratio (median)", "ratio (spread)"], lines))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

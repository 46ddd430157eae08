#!/usr/bin/env python3
"""Plots what `spillway quality --json` found: divergence from the full cache against the bytes that a decode step moves.

    quality_plot.py RESULT.json OUT.svg

Policies that differ in their budget alone are joined. The dashed line is the oracle's divergence at the default budget (or
its first one): no choice of as many tokens is much nearer to the full cache.
"""

import json
import pathlib
import re
import sys

import svg_plot


def moved(policy):
    """Bytes of KV that a step moved, over every link; of policies that move nothing, the least that can be drawn."""
    return max(sum(causes["kv_fetch"] for causes in policy["bytes_per_step"].values()), 1)


def kind(policy):
    return " ".join(re.sub(r"--select-budget[ =]\S+", "", policy).split()).replace("--kv-select ", "").replace("--kv-keep ", "").replace("--kv-type ", "")


def plot(result):
    series, oracle = {}, None
    for policy in result["policies"][1:]:
        name = kind(policy["policy"])
        hint = f"{policy['policy']}: KL {policy['kl']:.5f}, {svg_plot.size(round(moved(policy)))} a step"
        series.setdefault(name, []).append((moved(policy), max(policy["kl"], 1e-7), hint))
        if name == "oracle" and (oracle is None or "--select-budget" not in policy["policy"]):
            oracle = policy["kl"]
    windows = len(result["policies"][0]["windows"])
    return svg_plot.scatter(
        f"Quality against bytes moved: {result['model']}",
        f"{windows} windows of {result['window']} tokens of {result['text']}, the last {result['steps']} by decode steps",
        "mean KL to the full cache, nats",
        series,
        f"bytes of KV that a step moves (the full cache: {svg_plot.size(round(moved(result['policies'][0])))})",
        x_text=lambda nbytes: f"{nbytes:g} B" if nbytes < 1000 else f"{nbytes / 1000:g} kB" if nbytes < 1e6 else f"{nbytes / 1e6:g} MB",
        level=("the oracle", oracle) if oracle else None,
    )


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    result = json.loads(pathlib.Path(sys.argv[1]).read_text())
    if len(result["policies"]) < 2:
        sys.exit(f"{sys.argv[1]}: no policy beside the full cache")
    pathlib.Path(sys.argv[2]).write_text(plot(result))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What `spillway plan` promises beside what `spillway bench` measures, over models and budgets.

    prediction.py --spillway build/cpu/apps/spillway --model smollm2=M.gguf:4096 --model 7b=BIG.gguf:640 -o OUT.json

A model is NAME=FILE:CONTEXT. Its budgets follow from its own sizes: all resident, a part of the weights from disk or over an
emulated link, a part of the KV on the host or on disk, layers divided with the CPU. Each setting is planned and measured with
the same flags, decode with a full context, prefill from its beginning.
"""
import argparse
import json
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent / "peers")]
import common  # noqa: E402

MIB = 1 << 20
STEPS = 16  # of decode, behind a context that is full but for them


def settings(plan, context):
    """{name: flags} for a model whose plan with everything resident is given."""
    device = plan["tiers"]["device"]
    fixed, weights, kv = device["process"] + device["workspace"] + 4 * MIB, device["weights"], device["kv"]
    host = weights + kv + 64 * MIB
    layers = plan["device_layers"]

    def with_device(nbytes):
        return ["--device-mem", int(nbytes)]

    found = {"resident": []}
    for share in (0.75, 0.5, 0.25):
        found[f"{share:.0%} of the weights, rest from disk"] = with_device(fixed + kv + share * weights)
    for speed in (1, 4):
        found[f"50% of the weights, rest over {speed} GB/s"] = [
            *with_device(fixed + kv + weights / 2), "--host-mem", host, "--link-gbps", speed]
    if context >= 2048:
        found["25% of the KV, rest over 2 GB/s"] = [
            *with_device(fixed + weights + kv / 4), "--host-mem", host, "--link-gbps", 2]
        found["25% of the KV, rest from disk"] = [*with_device(fixed + weights + kv / 4), "--disk-mem", 2 * kv]
    found["half of the layers on the CPU"] = [
        *with_device(fixed + weights + kv), "--host-mem", host, "--link-gbps", 4, "-ngl", layers // 2]
    return found


def measured(spillway, flags, wanted):
    """Tokens a second, the median of three runs, and what computed."""
    row = common.rows_of(common.run([spillway, "bench", *flags, *wanted, "-r", 3, "-o", "json"])[0])[-1]
    return common.median(row["samples_ts"]), f"{row['cpu_info']}, {row['n_threads']} threads."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--model", required=True, action="append", help="NAME=FILE:CONTEXT")
    parser.add_argument("--only", default="", help="settings whose name contains this")
    parser.add_argument("-o", "--out", type=pathlib.Path)
    args = parser.parse_args()

    rows, machine = [], ""
    for model in args.model:
        name, _, rest = model.partition("=")
        path, _, context = rest.rpartition(":")
        context = int(context)
        base = ["-m", path, "-c", context]

        def plan(flags):
            return json.loads(common.run([args.spillway, "plan", *flags, "--json"])[0])

        for setting, budgets in settings(plan(base), context).items():
            if args.only not in setting:
                continue
            flags = [*base, *budgets]
            expected = plan(flags)["expected"]
            decode, machine = measured(args.spillway, flags, ["-p", 0, "-n", STEPS, "-d", context - 2 * STEPS])
            prefill, _ = measured(args.spillway, flags, ["-p", 512, "-n", 0])
            rows.append({"model": name, "context": context, "setting": setting, "flags": [str(flag) for flag in flags[2:]],
                         "bound": expected["bound"],
                         "decode": {"expected": expected["decode_tps"], "measured": decode},
                         "prefill": {"expected": expected["prefill_tps"], "measured": prefill}})
            for kind in ("decode", "prefill"):
                value = rows[-1][kind]
                value["error"] = value["expected"] / value["measured"] - 1
    result = {"machine": machine, "prediction": rows}
    head = ["model", "setting", "binds", "decode: expected", "measured", "off", "prefill: expected", "measured", "off"]
    print(common.table(head, [
        [row["model"], row["setting"], row["bound"]]
        + [text for kind in ("decode", "prefill")
           for text in (f"{row[kind]['expected']:.1f}", f"{row[kind]['measured']:.1f}", f"{row[kind]['error']:+.0%}")]
        for row in rows]))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

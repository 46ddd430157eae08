#!/usr/bin/env python3
"""Decode speed where the KV cache is not on the device: by context, policy and speed of the link, beside the ideal and the bound.

    kv.py --spillway build/cpu/apps/spillway --model M.gguf --text T.txt --contexts 2048,8192 -o OUT.json
    kv.py ... --disk                        the KV on the drive in place of host memory behind an emulated link

All weights stay on the device; of the KV, a share of its bytes in half precision does, with everything that a policy keeps for
it (rings, hot set, partial keys, scales, tables): 20 %, 30 % where pages are in half precision and there is a hot set. The
rest is in host memory, behind a link whose speed follows from r = (seconds to fetch all of the KV in half precision) /
(seconds of a step with everything on the device, reading all). A CPU is the device, so the link is emulated, and only ratios at the
stated r mean anything. Steps go over a real text, for what is chosen depends on it.

Each row: tokens a second; the same policy with everything on the device; the bound, 1 / max(step on the device, bytes moved /
speed of the link); bytes moved a token by link and cause, as counted by the program; and what the device holds for the KV.
"""
import argparse
import json
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent / "peers")]
import common  # noqa: E402

MIB = 1 << 20
CAP, CAP_HALF_PRECISION = 0.20, 0.30
POLICIES = {
    "full, fp16": ("", CAP),
    "full, 4 bits": ("--kv-type q4", CAP),
    "heavy hitters (H2O)": ("--kv-keep heavy --select-budget 10%", CAP),
    "page bounds (Quest)": ("--kv-select bounds --granule 16 --select-budget 10%", CAP_HALF_PRECISION),
    "InfiniGen": ("--kv-select infinigen --granule 1 --select-budget 10%", CAP_HALF_PRECISION),
    "rehearsal": ("--kv-select rehearsal --first-layers rehearsed --select-budget 10%", CAP_HALF_PRECISION),
    "rehearsal, kivi4": ("--kv-select rehearsal --first-layers rehearsed --select-budget 10% --kv-type kivi4 --kv-edge-layers 0", CAP),
}
EVERYTHING = POLICIES["full, fp16"][0]


class Bench:
    def __init__(self, args, context):
        self.args, self.context, self.resident = args, context, {}
        self.base = ["-m", args.model, "-c", context, *(["-t", args.threads] if args.threads else [])]

    def plan(self, flags):
        return json.loads(common.run([self.args.spillway, "plan", *self.base, *flags, "--json"])[0])

    def alone(self, flags):
        """Tokens a second with everything on the device: of no r."""
        key = " ".join(flags)
        if key not in self.resident:
            self.resident[key] = self.step(flags)[1]
        return self.resident[key]

    def step(self, flags):
        """The row of `steps` decode steps at the end of the context, the median of the rounds."""
        steps = self.args.steps
        command = [self.args.spillway, "bench", *self.base, *flags, "--text", self.args.text, "-p", 0, "-n", steps, "-d",
                   self.context - steps, "--depth-window", self.args.depth_window, "-r", self.args.rounds, "--no-warmup", "-o", "json"]
        row = common.rows_of(common.run(command)[0])[0]
        return row, common.median(row["samples_ts"])


def device_items(plan):
    """What the device holds for the KV, in bytes."""
    items = {"pages": plan["tiers"]["device"]["kv"], "ring": plan["kv"]["ring_bytes"]}
    items.update((plan.get("selection") or {}).get("bytes", {}))
    return {**{name: nbytes for name, nbytes in items.items() if nbytes}, "all": plan["kv"]["device_bytes"]}


def measure(bench, name, r, resident_s, kv16):
    flags, cap = POLICIES[name]
    flags = flags.split()
    whole = bench.plan(flags)["tiers"]["device"]
    budget = int(sum(whole[part] for part in ("process", "workspace", "weights")) + kv16 + 64 * MIB)
    if bench.args.disk:
        place, speed = ["--disk-mem", 3 * kv16, "--disk-dir", bench.args.disk_dir], None
    else:
        speed = kv16 / (r * resident_s)
        place = ["--host-mem", int(2 * kv16 + 256 * MIB), "--link-gbps", f"{speed / 1e9:.6f}"]
    row = {"policy": name, "flags": " ".join(flags), "context": bench.context, "r": r, "cap": cap}
    try:
        budgets = ["--device-mem", budget, "--kv-device-mem", int(cap * kv16), *place]
        plan = bench.plan([*flags, *budgets])
        alone = bench.alone(flags)
        ran, tps = bench.step([*flags, *budgets])
    except common.PeerError as error:
        row["refused"] = str(error).split("spillway: ")[-1]
        return row
    if any(plan["tiers"][tier]["weights"] for tier in ("host", "disk")):
        row["refused"] = "weights would leave the device too"
        return row
    moved = ran["bytes_per_token_by_cause"]
    over = {"host_to_device": speed, "device_to_host": speed, "disk_read": bench.args.disk_speed}
    link_s = max(sum(moved[link].values()) / rate for link, rate in over.items() if rate)
    bound = 1 / max(1 / alone, link_s)
    row.update(
        tps=tps, on_device_tps=alone, bound_tps=bound, of_bound=tps / bound, link_gbps=speed and speed / 1e9,
        bytes_per_token={link: {cause: n for cause, n in causes.items() if n} for link, causes in moved.items() if any(causes.values())},
        device={**device_items(plan), "of_kv": round(plan["kv"]["device_bytes"] / kv16, 4)},
        selection=ran["selection"], machine=f"{ran['cpu_info']}, {ran['n_threads']} threads")
    return row


def print_table(rows):
    ideal = {row["context"]: row["tps"] for row in rows if row["policy"] == "ideal"}
    full = {(row["context"], row["r"]): row["tps"] for row in rows if row["policy"] == "full, fp16" and "tps" in row}
    lines = []
    for row in rows:
        if "tps" not in row:
            lines.append([row["context"], row["r"], row["policy"], row["refused"][-80:], "", "", "", "", ""])
            continue
        against = full.get((row["context"], row["r"]))
        moved = sum(sum(causes.values()) for causes in row.get("bytes_per_token", {}).values())
        lines.append([row["context"], row["r"], row["policy"], f"{row['tps']:.2f}",
                      f"{row['tps'] / against:.2f}" if against else "", f"{row['tps'] / ideal[row['context']]:.2f}",
                      f"{row['of_bound']:.2f}" if "of_bound" in row else "", f"{moved / MIB:.2f}",
                      f"{row['device']['of_kv']:.2f}" if "device" in row else ""])
    print(common.table(["context", "r", "policy", "tok/s", "x full fetch", "x ideal", "x bound", "MiB a token",
                        "device's KV share"], lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, help="as many tokens of it as the longest context")
    parser.add_argument("--contexts", default="2048,8192")
    parser.add_argument("--r", default="5,13,40")
    parser.add_argument("--policies", default="", help="those whose name contains one of these words, with commas between")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--depth-window", type=int, default=0,
                        help="the text before the steps is read with attention to so many tokens (0: all), which saves hours of long contexts")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--disk-dir", default=".")
    parser.add_argument("--disk-speed", type=float, default=0, help="bytes a second of O_DIRECT reads (disk_perf)")
    parser.add_argument("-o", "--out", type=pathlib.Path)
    args = parser.parse_args()

    words = [word for word in args.policies.split(",") if word]
    names = [name for name in POLICIES if not words or any(word in name for word in words)]
    rows = []

    def keep(row):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps({"kv": rows, "model": pathlib.Path(args.model).name,
                                            "text": pathlib.Path(args.text).name, "steps": args.steps,
                                            "depth_window": args.depth_window}, indent=1) + "\n")

    for context in map(int, args.contexts.split(",")):
        bench = Bench(args, context)
        kv16 = bench.plan([])["kv"]["fp16_bytes"]
        ran, ideal = bench.step(EVERYTHING.split())
        keep({"policy": "ideal", "flags": EVERYTHING, "context": context, "r": 0, "tps": ideal,
              "machine": f"{ran['cpu_info']}, {ran['n_threads']} threads"})
        for r in [0.0] if args.disk else map(float, args.r.split(",")):
            for name in names:
                keep(measure(bench, name, r, 1 / ideal, kv16))
    print_table(rows)


if __name__ == "__main__":
    common.main(main)

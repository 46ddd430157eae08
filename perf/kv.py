#!/usr/bin/env python3
"""Decode speed where the KV cache is not on the device: by context, policy and speed of the link, beside the ideal and the bound.

    kv.py --spillway build/cpu/apps/spillway --model M.gguf --text T.txt --contexts 2048,8192 -o OUT.json
    kv.py ... --batch 1,4,20                so many sequences at once, each of the context
    kv.py ... --disk --tools build/cpu/perf the KV on the drive in place of host memory behind an emulated link

All weights stay on the device; of the KV, a share of its bytes in half precision does, with everything that a policy keeps for
it (rings, hot set, partial keys, scales, tables): 20 %, 30 % where pages are in half precision and there is a hot set. A policy
that short contexts leave no room in that (the matrices of a rehearsal do not shrink with them) is measured with little more than the
least that it takes, and its row says that it is over. The rest is in host memory, behind a link whose speed follows from r = (seconds to fetch all of the KV in half precision) /
(seconds of a step with everything on the device, reading all). A CPU is the device, so the link is emulated, and only ratios at the
stated r mean anything. Steps go over a real text, for what is chosen depends on it; a model of random weights knows none. Sequences
of a batch share passes, where a step chooses among its KV as many as have room for what they choose.

Each row: tokens a second of all sequences, the median of rounds that follow one another and how far they lie apart; the same policy with everything on
the device; the bound, 1 / max(step on the device, bytes moved / speed of the link); bytes moved a token by link and cause, as
counted by the program; and what the device holds for the KV, item by item.

The drive's speed is measured before and after each row by disk_perf on a file of --disk-mib in --disk-dir, by O_DIRECT reads of
1 MiB in file order, 16 in flight: the most that the drive gives, of which reads of a few blocks each get less. The page cache is
dropped first where that is let, and a row whose reads went through it is refused.

Of the heavy hitters (H2O) the attention that is added up is the one that the text before the steps has had: with --depth-window that
of a window. What a step costs does not depend on which tokens it keeps, and nothing else is measured here.
"""
import argparse
import json
import os
import pathlib
import re
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent / "peers")]
import common  # noqa: E402

MIB = 1 << 20
CAP, CAP_HALF_PRECISION = 0.20, 0.30
ROOM_MIB = 2  # beyond the least that fits, in which reads from a drive have little room to land
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


def flags_of(name, alike):
    """alike: of a model cut to a few layers, whose first and last ones, which policies spare, would be all of it."""
    flags = POLICIES[name][0].split()
    if alike and "--first-layers" not in flags and {"--kv-select", "--kv-keep"} & set(flags):
        flags += ["--first-layers", "rehearsed"]
    if alike and "--kv-edge-layers" not in flags and "--kv-type" in flags:
        flags += ["--kv-edge-layers", "0"]
    return flags


class Drive:
    """Of the folder that the KV lies in: its speed now, in bytes a second of O_DIRECT reads."""

    def __init__(self, args):
        self.tools, self.file = args.tools, pathlib.Path(args.disk_dir) / "kv-drive.bin"
        with open(self.file, "wb") as file:
            for _ in range(args.disk_mib):
                file.write(os.urandom(MIB))
        self.mib = args.disk_mib

    def speed(self):
        common.forget(self.file)
        return common.direct_speed(self.tools, self.file, self.mib)

    def close(self):
        self.file.unlink(missing_ok=True)


class Bench:
    def __init__(self, args, context, batch, drive):
        self.args, self.context, self.batch, self.drive, self.resident = args, context, batch, drive, {}
        self.base = ["-m", args.model, "-c", context, *(["-t", args.threads] if args.threads else [])]
        self.base += ["--parallel", batch] if batch > 1 else []

    def plan(self, flags):
        return json.loads(common.run([self.args.spillway, "plan", *self.base, *flags, "--json"])[0])

    def alone(self, flags):
        """Tokens a second with everything on the device: of no r."""
        key = " ".join(flags)
        if key not in self.resident:
            self.resident[key] = self.step(flags)[1]["median"]
        return self.resident[key]

    def step(self, flags):
        """The row of rounds of `steps` decode steps, one after another to the end of the context; and their summary."""
        args = self.args
        command = [args.spillway, "bench", *self.base, *flags, *(["--text", args.text] if args.text else []), "-p", 0, "-n",
                   args.steps, "-r", args.rounds, "--go-on", "-d", self.context - args.steps * args.rounds,
                   "--depth-window", args.depth_window, "--no-warmup", "-o", "json"]
        row = common.rows_of(common.run(command)[0])[0]
        return row, common.summary(row["samples_ts"])


def device_items(plan):
    """What the device holds for the KV, in bytes."""
    items = {"pages": plan["tiers"]["device"]["kv"], "ring": plan["kv"]["ring_bytes"]}
    items.update((plan.get("selection") or {}).get("bytes", {}))
    return {**{name: nbytes for name, nbytes in items.items() if nbytes}, "all": plan["kv"]["device_bytes"]}


def within_cap(bench, flags, budget, cap, place):
    """The plan, its budgets and whether the cap was too little for it: then its nearest fit and a little more is what it gets."""
    def planned(kv_bytes, over):
        budgets = ["--device-mem", budget + max(0, kv_bytes - cap), "--kv-device-mem", kv_bytes, *place]
        return bench.plan([*flags, *budgets]), budgets, over
    try:
        return planned(cap, False)
    except common.PeerError as error:
        nearest = re.search(r"nearest fit: --kv-device-mem (\d+)MiB", str(error))
        if not nearest:
            raise
        return planned((int(nearest[1]) + ROOM_MIB) * MIB, True)


def measure(bench, name, r, resident_s, kv16):
    """resident_s: of a step with everything on the device, a token of each sequence."""
    flags, cap = flags_of(name, bench.args.alike), POLICIES[name][1]
    row = {"policy": name, "flags": " ".join(flags), "context": bench.context, "batch": bench.batch, "r": r, "cap": cap}
    drive = []  # bytes a second
    try:
        whole = bench.plan(flags)["tiers"]["device"]
        budget = int(sum(whole[part] for part in ("process", "workspace", "weights")) + kv16 + 64 * MIB)
        if bench.drive:
            place, speed = ["--disk-mem", 3 * kv16, "--disk-dir", bench.args.disk_dir], None
        else:
            speed = kv16 / (r * resident_s)
            place = ["--host-mem", int(2 * kv16 + 256 * MIB), "--link-gbps", f"{speed / 1e9:.6f}"]
        plan, budgets, row["over_cap"] = within_cap(bench, flags, budget, int(cap * kv16), place)
        if any(plan["tiers"][tier]["weights"] for tier in ("host", "disk")):
            raise common.PeerError("weights would leave the device too")
        alone = bench.alone(flags)
        if bench.drive:
            drive.append(bench.drive.speed())
        ran, rounds = bench.step([*flags, *budgets])
        if bench.drive:
            drive.append(bench.drive.speed())
            if "page cache" in ran["disk"]:
                raise common.PeerError(f"no drive is measured: {ran['disk']}")
    except common.PeerError as error:
        row["refused"] = str(error).split("spillway: ")[-1]
        return row
    disk_speed = sum(drive) / len(drive) if drive else None
    moved = ran["bytes_per_token_by_cause"]
    over = {"host_to_device": speed, "device_to_host": speed, "disk_read": disk_speed}
    link_s = max(sum(moved[link].values()) / rate for link, rate in over.items() if rate)
    tps, bound = rounds["median"], 1 / max(1 / alone, link_s)
    row.update(
        tps=tps, rounds=rounds, on_device_tps=alone, bound_tps=bound, of_bound=tps / bound,
        link_gbps=speed and speed / 1e9,
        bytes_per_token={link: {cause: n for cause, n in causes.items() if n} for link, causes in moved.items() if any(causes.values())},
        device={**device_items(plan), "of_kv": round(plan["kv"]["device_bytes"] / kv16, 4)},
        selection=ran["selection"], machine=f"{ran['cpu_info']}, {ran['n_threads']} threads")
    if bench.drive:
        row.update(drive_gbps=[one / 1e9 for one in drive], disk=ran["disk"], disk_busy_share=ran["disk_busy_share"])
    return row


def print_table(rows):
    key = lambda row: (row["context"], row["batch"])
    ideal = {key(row): row["tps"] for row in rows if row["policy"] == "ideal"}
    full = {(key(row), row["r"]): row["tps"] for row in rows if row["policy"] == "full, fp16" and "tps" in row}
    lines = []
    for row in rows:
        if "tps" not in row:
            why = row["refused"].split("; ")[-1]
            lines.append([row["context"], row["batch"], row["r"], row["policy"], why, "", "", "", "", "", ""])
            continue
        against = full.get((key(row), row["r"]))
        moved = sum(sum(causes.values()) for causes in row.get("bytes_per_token", {}).values())
        spread = (row["rounds"]["max"] - row["rounds"]["min"]) / row["tps"]
        lines.append([row["context"], row["batch"], row["r"], row["policy"], f"{row['tps']:.2f}", f"{100 * spread:.0f} %",
                      f"{row['tps'] / against:.2f}" if against else "", f"{row['tps'] / ideal[key(row)]:.2f}",
                      f"{row['of_bound']:.2f}" if "of_bound" in row else "", f"{moved / MIB:.2f}",
                      f"{row['device']['of_kv']:.2f}{' (over)' * row['over_cap']}" if "device" in row else ""])
    print(common.table(["context", "batch", "r", "policy", "tok/s", "spread", "x full fetch", "x ideal", "x bound",
                        "MiB a token", "device's KV share"], lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", help="a file; without one the tokens are random, and so is what is chosen")
    parser.add_argument("--contexts", default="2048,8192")
    parser.add_argument("--r", default="5,13,40")
    parser.add_argument("--policies", default="", help="those whose name contains one of these words, with commas between")
    parser.add_argument("--alike", action="store_true",
                        help="no layer is spared by any policy: of a model cut to a few layers the first and last would be all")
    parser.add_argument("--steps", type=int, default=32, help="of each sequence, and round")
    parser.add_argument("--batch", default="1", help="sequences at once")
    parser.add_argument("--depth-window", type=int, default=0,
                        help="the text before the steps is read with attention to so many tokens (0: all), which saves hours of long contexts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--disk", action="store_true")
    parser.add_argument("--disk-dir", default=".")
    parser.add_argument("--disk-mib", type=int, default=1024, help="of the file that the drive's speed is measured with")
    parser.add_argument("--tools", type=common.program, help="the folder of disk_perf, for --disk")
    parser.add_argument("-o", "--out", type=pathlib.Path)
    args = parser.parse_args()
    if args.disk and not args.tools:
        parser.error("--disk: --tools says where disk_perf is")

    words = [word for word in args.policies.split(",") if word]
    names = [name for name in POLICIES if not words or any(word in name for word in words)]
    rows = []

    def keep(row):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps({"kv": rows, "model": pathlib.Path(args.model).name,
                                            "text": args.text and pathlib.Path(args.text).name, "steps": args.steps,
                                            "rounds": args.rounds, "depth_window": args.depth_window}, indent=1) + "\n")

    drive = Drive(args) if args.disk else None
    try:
        for context in map(int, args.contexts.split(",")):
            for batch in map(int, args.batch.split(",")):
                measure_all(Bench(args, context, batch, drive), names, keep)
    finally:
        if drive:
            drive.close()
    print_table(rows)


def measure_all(bench, names, keep):
    kv16 = bench.plan([])["kv"]["fp16_bytes"]
    ran, ideal = bench.step(EVERYTHING.split())
    keep({"policy": "ideal", "flags": EVERYTHING, "context": bench.context, "batch": bench.batch, "r": 0,
          "tps": ideal["median"], "rounds": ideal, "machine": f"{ran['cpu_info']}, {ran['n_threads']} threads"})
    bench.resident[EVERYTHING] = ideal["median"]
    for r in ["disk"] if bench.drive else map(float, bench.args.r.split(",")):
        for name in names:
            keep(measure(bench, name, r, bench.batch / ideal["median"], kv16))


if __name__ == "__main__":
    common.main(main)

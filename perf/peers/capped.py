#!/usr/bin/env python3
"""A model larger than the memory it may use: time per token of Spillway and of llama.cpp (mmap, no repacking) inside the same
memory cgroup, from a cold page cache, beside the drive's own O_DIRECT speed measured in between.

    capped.py --spillway build/apps/spillway --llama-bin DIR --tools build/perf --model 7b.gguf [--shares 25,50,75] [-n 4] [-o OUT.json]

Needs root (it makes a memory cgroup, v1 or v2, and drops the page cache). Each program runs `bench -p 0 -n N -r R`: the first
repetition is the cold one, the median of the others the steady one. The bound is
    (weight bytes a token reads - (cap - 300 MiB)) / O_DIRECT speed,
what a program that kept all it could and read the rest at the drive's speed would take.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import common

KEPT_BACK = 300 * common.MIB


class MemoryCgroup:
    """A cgroup of its own with a limit on memory, page cache included."""

    def __init__(self, limit):
        v1 = pathlib.Path("/sys/fs/cgroup/memory")
        self.v1 = (v1 / "memory.limit_in_bytes").exists()
        root = v1 if self.v1 else self.unified_root()
        self.path = root / f"spillway-capped-{os.getpid()}"
        self.path.mkdir()
        try:
            self.write("memory.limit_in_bytes" if self.v1 else "memory.max", limit)
            if not self.v1:
                self.write("memory.swap.max", 0, missing_ok=True)
        except OSError:
            self.close()
            raise

    @staticmethod
    def unified_root():
        for root in (pathlib.Path("/sys/fs/cgroup"), pathlib.Path("/sys/fs/cgroup/unified")):
            control = root / "cgroup.subtree_control"
            if control.exists():
                if "memory" not in control.read_text().split():
                    control.write_text("+memory")
                return root
        raise common.PeerError("no memory cgroup, v1 or v2, is mounted under /sys/fs/cgroup")

    def write(self, name, value, missing_ok=False):
        if missing_ok and not (self.path / name).exists():
            return
        (self.path / name).write_text(f"{value}\n")

    def peak(self):
        """The most that was charged, bytes; None where the kernel does not tell (v2 before 5.19)."""
        name = self.path / ("memory.max_usage_in_bytes" if self.v1 else "memory.peak")
        return int(name.read_text()) if name.exists() else None

    def close(self):
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)
        print(f"{self.path}: cannot remove", file=sys.stderr)


class DriveWatch:
    """Samples the drive of a file: how often requests were in flight, how many bytes were read."""

    def __init__(self, path):
        device = os.stat(path).st_dev
        self.device = (os.major(device), os.minor(device))
        self.samples = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def read(self):
        for line in pathlib.Path("/proc/diskstats").read_text().splitlines():
            words = line.split()
            if (int(words[0]), int(words[1])) == self.device:
                return int(words[5]) * 512, int(words[11])  # sectors read, requests in flight
        return None

    def work(self):
        while not self.stop.wait(0.01):
            now = self.read()
            if now is None:
                return
            self.samples.append((time.monotonic(), *now))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    def last(self, seconds):
        """Bytes read and share of samples with requests in flight over the last `seconds` before the end."""
        recent = [sample for sample in self.samples if sample[0] >= self.samples[-1][0] - seconds] if self.samples else []
        if len(recent) < 2:
            return None, None
        return recent[-1][1] - recent[0][1], sum(sample[2] > 0 for sample in recent) / len(recent)


def run_capped(command, cgroup, model):
    """Runs in the cgroup. (stdout, peak resident set in bytes, the drive's watch)."""
    command = [str(word) for word in command]
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    procs = str(cgroup.path / "cgroup.procs")

    def enter():
        with open(procs, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))

    with DriveWatch(model) as watch:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              preexec_fn=enter) as child:
            errors = []
            drain = threading.Thread(target=lambda: errors.append(child.stderr.read()))
            drain.start()
            out = child.stdout.read()
            drain.join()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise common.PeerError(f"{command[0]} ends with {child.returncode} in the cgroup: "
                               f"{errors[0].decode(errors='replace').strip()[-500:]}")
    return out.decode(), usage.ru_maxrss * 1024, watch


def measure(command, limit, args):
    cgroup = MemoryCgroup(limit)
    try:
        common.forget(args.model)
        out, resident, watch = run_capped(command, cgroup, args.model)
        peak = cgroup.peak()
    finally:
        cgroup.close()
    row = next((row for row in common.rows_of(out) if row.get("n_gen")), None)
    if row is None or len(row.get("samples_ns", [])) < 2:
        raise common.PeerError(f"{command[0]}: no samples_ns of two repetitions in its JSON")
    per_token = [sample * 1e-9 / args.gen for sample in row["samples_ns"]]
    steady = common.median(per_token[1:])
    read, busy = watch.last(sum(per_token[1:]) * args.gen)
    return {"cold_s": per_token[0], "steady_s": steady, "peak_cgroup": peak, "peak_resident": resident,
            "drive_bytes_per_token": read / (args.gen * len(per_token[1:])) if read is not None else None,
            "drive_busy": busy, "reported_busy": row.get("disk_busy_share"), "samples_s": per_token, "row": row}


def gb(value):
    return "?" if value is None else f"{value / 1e9:.2f} GB"


def show(result):
    lines = []
    for row in result["rows"]:
        for who in ("spillway", "llama"):
            got = row[who]
            against = f"{row['llama']['steady_s'] / got['steady_s']:.2f}" if who == "spillway" else "1"
            busy = ", ".join(f"{100 * share:.0f} %" for share in (got["drive_busy"], got["reported_busy"]) if share is not None)
            lines.append([f"{row['share']} % ({gb(row['cap'])})", who, f"{got['steady_s']:.2f} s", f"{got['cold_s']:.2f} s",
                          f"{got['bound_s']:.2f} s at {got['direct_speed'] / 1e9:.2f} GB/s",
                          f"{got['over_bound']:.2f}" if got["over_bound"] else "none", against,
                          gb(got["peak_cgroup"]), gb(got["peak_resident"]), gb(got["drive_bytes_per_token"]), busy])
    print(common.table(["cap", "program", "s/token", "cold", "bound", "times the bound", "speed to llama.cpp", "cgroup peak",
                        "resident peak", "drive read/token", "requests in flight"], lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True, type=common.program)
    parser.add_argument("--llama-bin", required=True, type=pathlib.Path, help="folder of llama-bench")
    parser.add_argument("--tools", required=True, type=common.program, help="folder of disk_perf")
    parser.add_argument("--model", required=True)
    parser.add_argument("--shares", default="25,50,75", help="caps, in percent of the model's size")
    parser.add_argument("-n", "--gen", type=int, default=4, help="tokens of a repetition")
    parser.add_argument("-r", "--repetitions", type=int, default=2, help="at least 2: the first is the cold one")
    parser.add_argument("--rounds", type=int, default=1, help="A B A B; a round's rows are reported one by one")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--spillway-args", default="", help="more flags for spillway bench, in one string")
    parser.add_argument("-o", "--out", type=pathlib.Path, help="all figures as JSON")
    args = parser.parse_args()
    if args.repetitions < 2:
        raise common.PeerError("-r must be at least 2: the first repetition is the cold one")
    if os.geteuid() != 0:
        raise common.PeerError("needs root, for the cgroup and for a cold page cache")

    size, read = common.model_bytes(args.model)
    shared = ["-m", args.model, "-p", 0, "-n", args.gen, "-r", args.repetitions, "-t", args.threads, "--no-warmup",
              "-o", "json"]
    commands = {
        "spillway": [args.spillway, "bench", *shared, *args.spillway_args.split()],
        "llama": [args.llama_bin / "llama-bench", *shared, "--load-mode", "mmap", "--repack", 0],
    }
    result = {"model": args.model, "model_bytes": size, "weight_bytes_per_token": read, "rows": []}
    for share in (int(word) for word in args.shares.split(",")):
        cap = size * share // 100 // 4096 * 4096
        for _ in range(args.rounds):
            row = {"share": share, "cap": cap}
            before = common.direct_speed(args.tools, args.model)
            for who, command in commands.items():
                row[who] = measure(command, cap, args)
                after = common.direct_speed(args.tools, args.model)
                speed = (before + after) / 2
                bound = max(0, read - max(0, cap - KEPT_BACK)) / speed
                row[who].update(direct_speed=speed, direct_speeds=[before, after], bound_s=bound,
                                over_bound=row[who]["steady_s"] / bound if bound else None)
                before = after
            result["rows"].append(row)
    show(result)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    common.main(main)

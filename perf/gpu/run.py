#!/usr/bin/env python3
"""Stages of tests and measurements on a GPU; started by scripts/gpu-run.sh, which says how."""

import argparse
import os
import pathlib
import shlex
import sys

import batches
import checks
import places
import record
import speeds

STAGES = {
    "smoke": (
        checks.smoke,
        "the module opens, the device is named, some operations and a tiny model at two placements (60 s)",
    ),
    "primitives": (checks.primitives, "each kernel's own tests on the GPU"),
    "ops": (checks.ops, "the grid of operations against the reference"),
    "e2e": (checks.e2e, "the whole engine at many placements"),
    "sanitizer": (checks.sanitizer, "compute-sanitizer's memcheck and racecheck over the small tests"),
    "limits": (speeds.limits, "copies each way and both at once, device memory, a large matrix product, gather, disk"),
    "perf": (speeds.perf, "operations, and 7B-shaped models: resident, streamed from host memory, streamed from disk"),
    "batch": (
        batches.batch,
        "a batch job of OPT-6.7B's shape: in FlexGen's published budget, and half of it from host memory",
    ),
    "peers": (speeds.peers, "transformers + accelerate at the same memory, llama.cpp where it can be built"),
}


class Context:
    def __init__(self, args):
        self.places = places.Places(args.build, args.work)
        self.emulated = args.emulated
        self.device = "cuda"
        self.stage_seconds = args.stage_seconds
        self.llama_cpp = pathlib.Path(args.llama_cpp).resolve() if args.llama_cpp else None
        self.python = args.python
        self.command = shlex.join(["gpu-run.sh", *(["--emulated"] if args.emulated else []), *args.stages])
        # Whatever runs sees this GPU alone, under the number that nvidia-smi gives it.
        self.gpu = args.gpu
        self.environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": args.gpu}
        if args.emulated:
            self.environment["SPILLWAY_CUDA_MODULE"] = str(self.places.emulated_module())
        # Its own measurements of the machine, apart from the user's.
        self.environment["XDG_CACHE_HOME"] = str(self.places.work / "cache")

    def facts(self):
        found = places.gpu_facts(self.gpu)
        if self.emulated:
            found = {"device": places.EMULATED_DEVICE, "driver": "", "cuda": "", "device_memory_mib": "", "pcie": ""}
        return {**found, "emulated": self.emulated, **self.places.build_facts(), "host": places.host_facts()}


def parse():
    stages = "\n".join(f"  {name:<11}{text}" for name, (_, text) in STAGES.items())
    parser = argparse.ArgumentParser(
        prog="gpu-run.sh",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Runs stages, one JSON each:\n{stages}",
    )
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "all"], metavar="STAGE")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=os.environ.get("OUT"),
        help="folder of the results, and of earlier ones to go on from (default: $OUT)",
    )
    parser.add_argument(
        "--emulated", action="store_true", help="on the emulated CUDA module: everything but speeds, without a GPU"
    )
    parser.add_argument(
        "--build", help="a build folder or an unpacked bundle (default: this bundle, else build/cuda or build/cpu)"
    )
    parser.add_argument("--work", help="folder for model files, 40 GB for all stages (default: one in $TMPDIR or /tmp)")
    parser.add_argument(
        "--gpu",
        default=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0",
        help="number of the GPU as nvidia-smi has it, or its UUID (default: the first of $CUDA_VISIBLE_DEVICES, or 0)",
    )
    parser.add_argument("--stage-seconds", type=float, default=480, help="most that a stage may take (default: 480)")
    parser.add_argument("--llama-cpp", help="llama.cpp's source folder (built here when it is not), for peers")
    parser.add_argument(
        "--python", default="python3", help="the Python that has torch and transformers, for limits and peers"
    )
    args = parser.parse_args()
    if args.out is None:
        parser.error("--out or $OUT must name a folder for the results")
    return args


def main():
    args = parse()
    try:
        context = Context(args)
        if not context.emulated and not places.output(["nvidia-smi", "-L"]).strip():
            print(
                "gpu-run.sh: nvidia-smi names no GPU here; what needs one will fail (--emulated needs none)",
                file=sys.stderr,
            )
    except places.NotHere as error:
        print(f"gpu-run.sh: {error}", file=sys.stderr)
        return 2
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    facts = context.facts()
    states = {}
    for name in dict.fromkeys(STAGES if "all" in args.stages else args.stages):
        print(f"== {name}", file=sys.stderr, flush=True)
        stage = record.Record(out / f"{name}.json", name, facts, context)
        try:
            STAGES[name][0](stage, context)
        except KeyboardInterrupt:
            stage.note("interrupted", "left", "Ctrl-C")
            stage.finish()
            return 130
        except Exception as error:  # a stage's own mistake must not cost the stages after it
            stage.note("the stage itself", "failed", f"{type(error).__name__}: {error}")
        states[name] = stage.finish()
        print(f"== {name}: {states[name]}, {stage.data['wall_s']:.0f} s", file=sys.stderr, flush=True)
    return 1 if "failed" in states.values() else 3 if "unfinished" in states.values() else 0


if __name__ == "__main__":
    sys.exit(main())

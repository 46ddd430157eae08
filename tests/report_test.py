#!/usr/bin/env python3
"""perf/report.py on a run made up here: every figure of it reaches the report, every plot is well-formed SVG, an emulated run
shows no speeds, and without a run it is said that there is none.

    report_test.py SOURCE [KEEP]     KEEP: a folder that the report stays in, to be looked at
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

source = pathlib.Path(sys.argv[1])
sys.dont_write_bytecode = True


def stage(name, parts, emulated=False, status="passed"):
    return {
        "stage": name,
        "device": "Made Up GPU",
        "driver": "1.2",
        "cuda": "13.0",
        "pcie": "gen 4 x16",
        "emulated": emulated,
        "commit": "0123456789ab",
        "host": {"processor": "Made Up CPU", "cores": 8, "memory_gib": 64},
        "command": "gpu-run.sh",
        "wall_s": 12.0,
        "status": status,
        "parts": parts,
    }


def passed(result):
    return {"status": "passed", "result": result}


def decode(speed, shares):
    return {
        "tokens_per_second": speed,
        "deviation": 0.5,
        "samples": [speed],
        "bytes_per_token": {"host_to_device": 1.9e9, "disk_read": 0},
        "share_of_limit": shares,
        "disk_busy_share": 0,
    }


def made_up():
    pieces = [65536 * 4**i for i in range(7)]
    link = [
        {
            "piece_bytes": p,
            "pinned_to_device": 25e9 * p / (p + 2e5),
            "pinned_to_host": 24e9 * p / (p + 2e5),
            "pinned_both_ways": 44e9 * p / (p + 3e5),
            "pageable_to_device": 9e9,
            "pageable_to_host": 8e9,
        }
        for p in pieces
    ]
    gather = [
        {
            "row_bytes": 32 * 2**i,
            "rows": 9,
            "copy": 25e9,
            "gather_kernel": 25e9 * 2**i / (2**i + 3),
            "gather_runs": 24e9 * 2**i / (2**i + 4),
            "copy_for_each": 2e7 * 2**i,
            "gathered_by_host": 3e9 + 1e9 * i,
        }
        for i in range(8)
    ]
    return {
        "smoke": stage(
            "smoke",
            {
                "OpGridNorm": passed({"tests": 7, "skipped": 0, "failures": {"OpGridNorm.Odd/cuda": "off by one"}}),
                "module": passed({"report": "cuda:0"}),
            },
            status="failed",
        ),
        "sanitizer": stage(
            "sanitizer", {"compute-sanitizer": {"status": "missing", "why": "compute-sanitizer is not on this machine"}}
        ),
        "limits": stage(
            "limits",
            {
                "machine": passed(
                    {
                        "compute": {
                            "host_to_device": 25.1e9,
                            "device_to_host": 24.2e9,
                            "device_memory": 901.5e9,
                            "memory_read": 33e9,
                        }
                    }
                ),
                "link": passed({"device": "Made Up GPU", "within_device_read_and_written": 9e11, "rows": link}),
                "products": passed(
                    {
                        "side": 8192,
                        "flops": {"float16": 98.7e12},
                        "rows": [
                            {"type": "Q8_0", "m": 64, "n": 4096, "k": 4096, "flops": 45.6e12, "share_of_peak": 0.46}
                        ],
                    }
                ),
                "gather": passed({"device": "Made Up GPU", "rows": gather}),
                "matrix product": passed({"flops": {"float16": 123.4e12}}),
            },
        ),
        "perf": stage(
            "perf",
            {
                "resident q4_0": passed(
                    {"decode": decode(151.25, {"device_memory": 0.81}), "prefill": {"tokens_per_second": 4321.0}}
                ),
                "resident q4_0 without graphs": passed({"decode": decode(121.0, {"device_memory": 0.65})}),
                "stream-host q4_0": passed({"decode": decode(12.75, {"host_to_device": 0.95, "device_memory": 0.07})}),
                "stream-disk q4_0": passed({"decode": decode(0.55, {"disk_read": 0.99})}),
                "operations": passed(
                    {"rows": [{"name": "matmul Q4_0 m 1", "unit": "GB/s", "value": 777.0, "limit": 901.0}]}
                ),
            },
        ),
        "batch": stage(
            "batch",
            {
                "batch opt, half": passed(
                    {
                        "requests": 64,
                        "prompt": 512,
                        "answer": 32,
                        "at_once": 48,
                        "generated_tokens_per_second": 31.25,
                        "bytes": {"host_to_device": 412.5e9},
                        "share_of_limit": {"host_to_device": 0.77},
                    }
                )
            },
        ),
        "peers": stage(
            "peers",
            {
                f"{who} f16, 6 GiB on the GPU, {turn}": passed({"decode": speed + turn})
                for who, speed in (("spillway", 2.5), ("accelerate", 1.25))
                for turn in (1, 2)
            },
        ),
    }


def render(runs, into):
    for name, stages in runs.items():
        (into / name).mkdir(parents=True)
        for stage_name, data in stages.items():
            (into / name / f"{stage_name}.json").write_text(json.dumps(data))
    subprocess.run([sys.executable, source / "perf" / "report.py", into], check=True, stdout=subprocess.DEVNULL)
    return (into / "report.md").read_text()


def expect(report, *words):
    missing = [word for word in words if word not in report]
    if missing:
        sys.exit(f"the report lacks {missing}:\n{report}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        report = render({"made-up": made_up()}, base / "real")
        expect(
            report,
            "Made Up GPU",
            "driver 1.2",
            "0123456789ab",
            "7 run, 1 failed",
            "compute-sanitizer is not on this machine",
            "25.1 GB/s",
            "901.5 GB/s",
            "123.4 TFLOP/s",
            "151.25",
            "4321",
            "81 %",
            "95 %",
            "777.0 GB/s",
            "86 %",
            "| resident q4_0 | 151.25 | 121.00 | 1.25 |",
            "98.7 TFLOP/s",
            "45.6 TFLOP/s",
            "46 %",
            "1.56",
            "| batch opt, half | 64 of 512 + 32 | 48 | 31.25 | 412.5 GB | 77 % |",
            "OpGridNorm.Odd/cuda: off by one",
        )
        if "No figure from a GPU" in report:
            sys.exit("a real run is there, and the report denies it")
        plots = sorted((base / "real").glob("*.svg"))
        if len(plots) != 4:
            sys.exit(f"4 plots are wanted, not {[plot.name for plot in plots]}")
        for plot in plots:
            xml.parse(plot)
            expect(report, plot.name)
        emulated = {
            "made-up": {
                "perf": stage("perf", {"resident q4_0": passed({"decode": {"bytes_per_token": {}}})}, emulated=True)
            }
        }
        expect(render(emulated, base / "emulated"), "No figure from a GPU exists so far.", "emulated, no speeds")
        if list((base / "emulated").glob("*.svg")):
            sys.exit("an emulated run has plots")
        (base / "cpu").mkdir()
        speeds = {"expected": 110.0, "measured": 100.0, "error": 0.1}
        far = {"expected": 30.0, "measured": 20.0, "error": 0.5}
        rows = [{"model": "made-up", "context": 640, "setting": "resident", "bound": "disk", "decode": speeds, "prefill": far}]
        (base / "cpu" / "prediction.json").write_text(json.dumps({"prediction": rows}))
        report = render({}, base / "cpu")
        expect(report, "decode in 1 of 1 settings, prefill in 0", "| 110.0 | 100.0 | +10 % |", "| 30.0 | 20.0 | +50 % |")
        for name in ("prediction-decode.svg", "prediction-prefill.svg"):
            xml.parse(base / "cpu" / name)
            expect(report, name)
        expect(
            render({}, base / "nothing") if (base / "nothing").mkdir() is None else "",
            "No figure from a GPU exists so far.",
        )
        if len(sys.argv) > 2:
            shutil.copytree(base / "real", sys.argv[2], dirs_exist_ok=True)
    print("report: every figure and plot is there")


main()

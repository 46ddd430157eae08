#!/usr/bin/env python3
"""scripts/gpu-run.sh without a GPU: its smoke and batch stages on the emulated CUDA module, the former once more, when nothing is
left to do; and what it says of a stage that fails, of a tool that is missing, of time that runs out.

    gpu_run_test.py SOURCE BUILD
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

source, build = map(pathlib.Path, sys.argv[1:3])
sys.dont_write_bytecode = True
sys.path.insert(0, str(source / "perf" / "gpu"))
import gtest  # noqa: E402
import places  # noqa: E402
import record as records  # noqa: E402


def fail(why):
    sys.exit(f"gpu_run: {why}")


def run(out, work, *words):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPILLWAY_")}
    done = subprocess.run(
        [source / "scripts" / "gpu-run.sh", "--build", build, "--out", out, "--work", work, *words],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    return done.returncode, done.stderr


def smoke(folder):
    code, said = run(folder / "out", folder / "work", "--emulated", "smoke")
    stage = json.loads((folder / "out" / "smoke.json").read_text())
    if code != 0 or stage["status"] != "passed":
        fail(f"smoke ends with {code}:\n{said}")
    if stage["device"] != places.EMULATED_DEVICE or not stage["emulated"]:
        fail(f"an emulated run is called {stage['device']}")
    if stage["command"] != "gpu-run.sh --emulated smoke" or str(folder) in json.dumps(stage):
        fail("a path of this machine is kept")
    same = stage["parts"]["generate tiny: every placement, one answer"]["result"]
    if len(same["placements"]) != 2 or len(same["answer"]) != 12:
        fail(f"two placements and 12 ids are wanted: {same}")
    streamed = stage["parts"]["generate tiny, half of the weights in host memory"]["result"]
    if streamed["weights"]["host"] == 0 or streamed["bytes"]["host_to_device"] == 0:
        fail(f"nothing streamed: {streamed}")
    if not any(
        isinstance(part.get("result"), dict) and part["result"].get("tests") for part in stage["parts"].values()
    ):
        fail(f"no operation was tested: {list(stage['parts'])}")
    before = {name: part["seconds"] for name, part in stage["parts"].items() if "seconds" in part}
    code, _ = run(folder / "out", folder / "work", "--emulated", "smoke")
    again = json.loads((folder / "out" / "smoke.json").read_text())
    if code != 0 or before != {name: part["seconds"] for name, part in again["parts"].items() if "seconds" in part}:
        fail("what was done is done again")


def batch(folder):
    """The row of OPT's shape: both budgets are answered, one of them out of host memory, and no speed is kept."""
    code, said = run(folder / "out", folder / "work", "--emulated", "batch")
    stage = json.loads((folder / "out" / "batch.json").read_text())
    if code != 0 or stage["status"] != "passed":
        fail(f"batch ends with {code}:\n{said}")
    whole = stage["parts"]["batch tiny-opt-f16, the published budget"]["result"]
    half = stage["parts"]["batch tiny-opt-f16, half of the weights in host memory"]["result"]
    if whole["weights"]["host"] != 0 or half["weights"]["host"] == 0:
        fail(f"the weights are not where they should be: {whole}, {half}")
    # Every pass brings what is not on the device.
    if half["bytes"]["host_to_device"] < half["passes"] * half["weights"]["host"]:
        fail(f"weights in host memory did not stream: {half}")
    if any("second" in key or "share" in key for row in (whole, half) for key in row):
        fail(f"a speed of an emulated device is kept: {half}")


class Stand:
    """A context for a record alone."""

    stage_seconds, command, environment = 60, "test", {}

    def __init__(self, folder):
        self.places = places.Places(build, folder / "work")


def states(folder):
    """Failures, refusals, missing programs and ends of time, each under its own name."""
    context = Stand(folder)
    facts = {"device": "none", "commit": "x", "emulated": True}
    stage = records.Record(folder / "stage.json", "stage", facts, context)
    stage.run("good", ["true"])
    stage.run("bad", ["sh", "-c", "echo out of luck >&2; exit 3"])
    stage.run("refused", ["sh", "-c", "echo ERR_NVGPUCTRPERM >&2; exit 1"], refused=("ERR_NVGPUCTRPERM",))
    stage.run("gone", ["/nonexistent/program"])
    # A tool that has found something has not been refused, whatever words the program under it prints.
    stage.run("found", ["sh", "-c", "echo ERR_NVGPUCTRPERM >&2; exit 9"], refused=("ERR_NVGPUCTRPERM",))
    told = ["sh", "-c", "echo '{}'; echo ERR_NVGPUCTRPERM >&2; exit 1"]
    stage.run("told", told, refused=("ERR_NVGPUCTRPERM",), read=records.read_json)
    stage.run("slow", ["sleep", "30"], limit=0.3)
    stage.run("garbled", ["echo", "no JSON"], read=records.read_json)
    wanted = {
        "good": "passed",
        "bad": "failed",
        "refused": "refused",
        "gone": "missing",
        "found": "failed",
        "told": "failed",
        "slow": "timed out",
        "garbled": "failed",
    }
    found = {name: part["status"] for name, part in stage.parts().items()}
    if found != wanted:
        fail(f"{found} is not {wanted}")
    if stage.parts()["bad"]["why"] != "out of luck" or stage.parts()["bad"]["exit"] != 3:
        fail("a failure's own words are lost")
    if stage.finish() != "failed":
        fail("a stage with failures has not failed")
    stage = records.Record(folder / "stage.json", "stage", facts, context)
    stage.run("good", ["true"])
    stage.deadline = 0
    stage.run("later", ["true"])
    if stage.finish() != "unfinished":
        fail("a stage without time left is finished")
    other = records.Record(folder / "stage.json", "stage", {**facts, "commit": "y"}, context)
    if other.parts():
        fail("parts of another commit are kept")


def unlisted(folder):
    """A program that does not start, or has no such test, fails the stage that wanted its tests."""
    context = Stand(folder)
    facts = {"device": "none", "commit": "x", "emulated": True}
    stage = records.Record(folder / "unlisted.json", "stage", facts, context)
    broken = folder / "broken" / "tests"
    broken.mkdir(parents=True)
    (broken / "kernels_tests").write_text("#!/bin/sh\necho no library >&2\nexit 127\n")
    (broken / "kernels_tests").chmod(0o755)
    gtest.run_suites(stage, context, "kernels_tests", "^NoSuchSuite")
    context.places.build = broken.parent
    gtest.run_suites(stage, context, "kernels_tests", ".", prefix="broken ")
    gtest.run_suites(stage, context, "runtime_tests", ".")
    found = {name: part["status"] for name, part in stage.parts().items()}
    if found != {"kernels_tests": "failed", "broken kernels_tests": "failed", "runtime_tests": "missing"}:
        fail(f"of programs that do not name their tests: {found}")


def main():
    with tempfile.TemporaryDirectory() as folder:
        states(pathlib.Path(folder))
        unlisted(pathlib.Path(folder))
        smoke(pathlib.Path(folder))
        batch(pathlib.Path(folder))
    print("gpu_run: stages, their ends and their resumption are as they should be")


main()

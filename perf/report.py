#!/usr/bin/env python3
"""Tables (Markdown) and plots (SVG) of measurements: of a GPU run's folder, and of the files in perf/results.

    report.py perf/results -o DIR        everything below the folder: DIR/report.md and the plots beside it
    report.py RUN                        a GPU run's folder alone: the report goes into it

Every figure comes from a file; what a file does not hold is not in the report. Python's standard library is all it needs.
"""

import argparse
import json
import pathlib
import re
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parent / "peers")]
import report_cpu  # noqa: E402
import report_gpu  # noqa: E402


class Report:
    """The text so far, and the plots that it shows."""

    def __init__(self, folder):
        self.folder, self.text = folder, []

    def add(self, *lines):
        self.text += [*lines, ""]

    def plot(self, name, svg):
        name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".svg"
        (self.folder / name).write_text(svg)
        self.add(f"![{name[:-4]}]({name})")

    def write(self):
        path = self.folder / "report.md"
        path.write_text("\n".join(self.text).rstrip() + "\n")
        return path


def load(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        print(f"report.py: {path}: not JSON ({error})", file=sys.stderr)
        return None


def runs_below(folder):
    """GPU runs: folders that hold a stage's file; {folder: {stage: its JSON}}."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        data = load(path)
        if isinstance(data, dict) and "stage" in data and "parts" in data:
            found.setdefault(path.parent, {})[data["stage"]] = data
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("-o", "--out", type=pathlib.Path, help="folder of the report (default: the same)")
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is no folder")
    out = args.out or args.folder
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out)
    report.add("# Measurements", "Made by `perf/report.py` from the JSON files; do not edit.")
    runs = runs_below(args.folder)
    report_gpu.section(report, runs)
    report_cpu.section(report, {path: load(path) for path in sorted(args.folder.glob("*.json"))})
    print(report.write())


if __name__ == "__main__":
    main()

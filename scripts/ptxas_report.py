#!/usr/bin/env python3
"""What ptxas says of each CUDA kernel: registers, spills, stack and shared memory.

    ptxas_report.py compile NOTES COMMAND...   runs a compile command and keeps ptxas's words as NOTES/<object>.txt
    ptxas_report.py report NOTES OUT SOURCE... writes a table of the sources' kernels to OUT, prints the one line that sums it up
"""
import pathlib
import re
import subprocess
import sys

ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def compile_step(notes, command):
    """ptxas speaks on stderr, between the compiler's own words; those are passed on."""
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    ptxas = [line for line in result.stderr.splitlines() if line.startswith("ptxas info") or SPILL.search(line)]
    rest = [line for line in result.stderr.splitlines() if line not in ptxas]
    if rest:
        print("\n".join(rest), file=sys.stderr)
    if result.returncode == 0 and "-o" in command and "-c" in command:
        source = pathlib.Path(command[command.index("-o") + 1]).name
        notes.mkdir(parents=True, exist_ok=True)
        (notes / f"{source}.txt").write_text("\n".join(ptxas) + "\n")
    return result.returncode


def kernels(text):
    """Yields (name, architecture, registers, spill bytes, stack bytes, static shared bytes)."""
    name = architecture = None
    stack = spills = 0
    for line in text.splitlines():
        if match := ENTRY.search(line):
            name, architecture = match.groups()
            stack = spills = 0
        elif match := SPILL.search(line):
            stack, stores, loads = map(int, match.groups())
            spills = stores + loads
        elif (match := USED.search(line)) and name:
            yield name, architecture, int(match[1]), spills, stack, int(match[2] or 0)
            name = None


def demangled(names):
    try:
        result = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    return [re.sub(r"spillway::cuda::|\(anonymous namespace\)::|\(int\)|_GLOBAL__N__\w+::", "", n)
            for n in result.stdout.splitlines()]


def report(notes, out, sources):
    found = [path for path in sorted(notes.glob("*.txt")) if path.name.split(".cu")[0] + ".cu" in sources]
    rows = [row for path in found for row in kernels(path.read_text())]
    rows = sorted((name, *row[1:]) for name, row in zip(demangled([row[0] for row in rows]), rows))
    lines = [f"{'registers':>9} {'spilled':>7} {'stack':>6} {'shared':>6}  arch     kernel"]
    lines += [f"{registers:9} {spills:7} {stack:6} {shared:6}  {architecture:8} {name}"
              for name, architecture, registers, spills, stack, shared in rows]
    out.write_text("\n".join(lines) + "\n")
    spilling = [row for row in rows if row[3]]
    print(f"CUDA kernels: {len(rows)} built, most registers {max((row[2] for row in rows), default=0)}, "
          f"{len(spilling)} with spills ({out})")
    for name, architecture, registers, spills, *_ in spilling:
        print(f"  spills {spills} bytes at {registers} registers: {name} for {architecture}")
    return 0 if rows else 1


def main(arguments):
    if len(arguments) > 2 and arguments[0] == "compile":
        return compile_step(pathlib.Path(arguments[1]), arguments[2:])
    if len(arguments) > 3 and arguments[0] == "report":
        sources = {pathlib.Path(name).name for name in arguments[3:]}
        return report(pathlib.Path(arguments[1]), pathlib.Path(arguments[2]), sources)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

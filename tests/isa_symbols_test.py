#!/usr/bin/env python3
"""The object files of one instruction set share nothing with the rest of the program: an inline function that they
defined for all (a weak symbol) could be the one the linker keeps, and run on a CPU that lacks the instructions.

usage: isa_symbols_test.py OBJECT...   (those of kernels/; the ones named kernels_avx* are looked at)
"""
import os
import subprocess
import sys

def complaints(path: str) -> list[str]:
    found = []
    table = os.path.basename(path).removeprefix("kernels_").split(".")[0] + "_kernels"
    for line in subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout.splitlines():
        kind, name = line[17:18], line[19:]
        if kind == "T" and table not in name or kind not in "TUtrdbn":
            found.append(f"{path}: defines {name} for the whole program ({kind})")
    return found


def main() -> int:
    objects = [path for path in sys.argv[1:] if os.path.basename(path).startswith("kernels_avx")]
    found = [line for path in objects for line in complaints(path)]
    if len(objects) != 2:
        found.append(f"expected the objects of two instruction sets, got {objects}")
    print("\n".join(found) if found else f"{len(objects)} objects keep to themselves")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

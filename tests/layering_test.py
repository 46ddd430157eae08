#!/usr/bin/env python3
"""Includes run one way: apps -> runtime -> prefetch | loader -> memory -> kernels. Nothing includes tests or perf."""
import pathlib
import re
import sys

MAY_INCLUDE = {
    "kernels": {"kernels"},
    "memory": {"memory", "kernels"},
    "prefetch": {"prefetch", "memory", "kernels"},
    "loader": {"loader", "memory", "kernels"},
    "runtime": {"runtime", "prefetch", "loader", "memory", "kernels"},
    "apps": {"apps", "runtime", "prefetch", "loader", "memory", "kernels"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
SOURCES = {".h", ".hpp", ".inl", ".cpp", ".cu", ".cuh"}


def violations(root):
    for folder, allowed in MAY_INCLUDE.items():
        for path in sorted((root / folder).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                target = match.group(1)
                if "/" not in target or ".." in target or target.split("/")[0] not in allowed:
                    yield f"{path.relative_to(root)}:{number}: includes \"{target}\""


def main():
    found = list(violations(pathlib.Path(sys.argv[1])))
    print("\n".join(found) or "layering: every include runs down the one direction")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the peer scripts share: running programs, medians, the bytes a token reads, the drive's own speed."""
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import time

MIB = 1 << 20


class PeerError(Exception):
    """A program failed or said something that cannot be read."""


def program(path):
    """An argument that names a program: absolute, so that ./x is not looked up in PATH."""
    return pathlib.Path(path).absolute()


def run(command, **options):
    """stdout and stderr of a command; PeerError with its last words when it fails."""
    command = [str(word) for word in command]
    print("+ " + " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          errors="replace", check=False, **options)
    if done.returncode != 0:
        raise PeerError(f"{command[0]} ends with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout, done.stderr


def rows_of(text):
    """Objects of a JSON array, of one object, or of one object a line."""
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except json.JSONDecodeError:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise PeerError(f"not JSON: {text[:200]!r}") from error


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def summary(values):
    return {"median": median(values), "min": min(values), "max": max(values), "values": list(values)}


def table(head, rows):
    """A markdown table."""
    lines = [head, ["---"] * len(head)] + rows
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def parts_of(model):
    """All files of a model, split or single."""
    path = pathlib.Path(model)
    split = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if not split:
        return [path]
    return [path.parent / f"{split[1]}-{i + 1:05}-of-{split[2]}.gguf" for i in range(int(split[2]))]


# (elements, bytes) of a block of each type, by its number in the file.
GGML_BLOCKS = {
    0: (1, 4), 1: (1, 2), 30: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 20: (32, 18),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 23: (256, 136),
}
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


EXPERT_FACTS = (".expert_count", ".expert_used_count")


def tensor_bytes(path):
    """Name and bytes of each tensor of one GGUF file; and how many experts it has and uses, as far as it says."""
    with open(path, "rb") as file:

        def number(code):
            return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

        def text():
            return file.read(number("Q")).decode()

        def skip(kind):
            if kind == 8:
                file.seek(number("Q"), os.SEEK_CUR)
            elif kind == 9:
                inner, count = number("I"), number("Q")
                if inner in SCALAR_BYTES:
                    file.seek(count * SCALAR_BYTES[inner], os.SEEK_CUR)
                else:
                    for _ in range(count):
                        skip(inner)
            else:
                file.seek(SCALAR_BYTES[kind], os.SEEK_CUR)

        if file.read(4) != b"GGUF":
            raise PeerError(f"{path}: not a GGUF file")
        number("I")
        tensors, facts = number("Q"), number("Q")
        experts = {}
        for _ in range(facts):
            key, kind = text(), number("I")
            if kind == 4 and key.endswith(EXPERT_FACTS):
                experts[key[key.rindex("."):]] = number("I")
            else:
                skip(kind)
        found = {}
        for _ in range(tensors):
            name = text()
            elements = math.prod(number("Q") for _ in range(number("I")))
            kind, _offset = number("I"), number("Q")
            if kind not in GGML_BLOCKS:
                raise PeerError(f"{path}: {name} has type {kind}, whose size this script does not know")
            block, size = GGML_BLOCKS[kind]
            found[name] = elements // block * size
        return found, experts


def model_bytes(model):
    """(bytes of all files, weight bytes that one decoded token reads: all but an embedding that is only looked up, and of a
    mixture's experts those that are used)."""
    sizes, experts = {}, {}
    for part in parts_of(model):
        found, facts = tensor_bytes(part)
        sizes.update(found)
        experts.update(facts)
    used = experts[".expert_used_count"] / experts[".expert_count"] if len(experts) == 2 else 1
    read = round(sum(size * (used if "_exps." in name else 1) for name, size in sizes.items()))
    if "output.weight" in sizes:
        read -= sizes["token_embd.weight"]
    return sum(part.stat().st_size for part in parts_of(model)), read


def forget(model):
    """Takes the model's files out of the page cache."""
    os.sync()
    for part in parts_of(model):
        with open(part, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if os.geteuid() == 0:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("1\n")


def direct_speed(tools, model, mib=2048):
    """Bytes per second of O_DIRECT reads in file order, 16 requests of 1 MiB in flight: the median of disk_perf's
    three methods."""
    out, _ = run([tools / "disk_perf", "--mib", mib, "--depth", 16, "--memory-mib", 256, parts_of(model)[0]])
    speeds = [row["gb_per_second"] * 1e9 for row in json.loads(out)["rows"] if "page cache" not in row["asked"]]
    if not speeds:
        raise PeerError(f"{model}: this drive has no O_DIRECT reads to measure")
    return median(speeds)


def main(function):
    try:
        sys.exit(function())
    except (PeerError, OSError) as error:
        print(f"{os.path.basename(sys.argv[0])}: {error}", file=sys.stderr)
        sys.exit(1)

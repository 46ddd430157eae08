#!/usr/bin/env python3
"""Writes the seeds of the fuzzers of files that Spillway keeps for itself: make_kept_seeds.py tests/fuzz/corpus. Skews are of the
model of tests/fuzz/skew_case.cpp; for the others tests/fuzz/cache_files_case.h says what the first byte means."""
import json
import pathlib
import struct
import sys

from make_gguf_seeds import TEXT, U32, gguf

PRINT = "0123456789abcdef"
LAYERS, HIDDEN, WIDTH, HEAD = 3, 32, 16, 8


def skew(ahead=1, guess="ridge", without=None, **changes):
    keys = {"general.type": (TEXT, "skew"), "skew.version": (U32, 2), "skew.fingerprint": (TEXT, PRINT),
            "skew.text.name": (TEXT, "a text"), "skew.text.xxh3": (TEXT, "feed"), "skew.context": (U32, 640),
            "skew.ahead": (U32, ahead), "skew.query": (TEXT, guess)}
    keys |= {"skew." + key: value for key, value in changes.items()}
    tensors = {}
    for layer in range(LAYERS):
        if guess == "ridge" and layer >= ahead:
            tensors[f"{layer}.query.weight"] = ("Q4_0", [HIDDEN, WIDTH])
            tensors[f"{layer}.query.bias"] = ("F32", [WIDTH])
        for part in ("directions.key", "directions.query"):
            tensors[f"{layer}.{part}"] = ("F32", [HEAD, HEAD])
        tensors[f"{layer}.mean.key"] = ("F32", [HEAD, 1])
        tensors[f"{layer}.directions.principal"] = ("F32", [HEAD, HEAD])
    tensors.pop(without, None)
    return gguf(keys, tensors)


def skews():
    yield "ridge", skew()
    yield "ahead", skew(ahead=2)
    yield "gain", skew(guess="gain")
    yield "other_model", skew(fingerprint=(TEXT, PRINT[::-1]))
    yield "older", skew(version=(U32, 1))
    yield "lacks", skew(without="1.query.weight")
    whole = skew()
    yield "cut", whole[:-40]
    yield "not_finite", whole[:-4] + struct.pack("<f", float("inf"))


def machine(**changes):
    conditions = {"others": 0.1, "tries": 1}
    compute = {"memory_read": 2e10, "host_to_device": 1e10, "device_to_host": 1e10, "device_memory": 0, "call_s": 1e-6,
               "working_set": 1 << 28, "conditions": conditions, "attention": {"8/2 x 64": 1e10},
               "weights": {"Q4_0": {"decode_bytes": 1e10, "prefill_flops": 1e11}}}
    disk = {"read": 2e9, "write": 1e9, "latency_s": 1e-4, "method": "io_uring", "through_cache": False, "conditions": conditions}
    layers = {"layers": 4, "chunk": 64, "decode_s": 0.01, "head_s": 0.001, "chunk_s": 0.1, "rows_s": {"4": 0.02, "16": 0.05},
              "head_rows_s": {"4": 0.002}, "conditions": conditions, "measured_at": 1700000000}
    file = {"format": 2, "compute": {"k": compute}, "disks": {"k": disk}, "layers": {"k": layers}} | changes
    return b"m" + json.dumps(file).encode()


def record(text=None, **changes):
    facts = {"spillway_batch": 1, "input": {"xxh3": f"{0x1234:016x}", "bytes": 100, "lines": 5, "requests": 5}, "shard": 1,
             "shards": 1, "model": PRINT, "flags": {"--kv-type": "fp16", "--seed": "0"}, "found": {}}
    return (json.dumps(facts | changes) if text is None else text).encode()


def result(line, failed=False, hash=0x1234):
    response = None if failed else {"status_code": 200, "body": {"choices": []}}
    return json.dumps({"id": f"batch_req_{hash:016x}-{line}", "custom_id": "a", "response": response, "error": None}) + "\n"


def kept():
    yield "machine", machine()
    yield "machine_older", machine(format=1)
    yield "machine_broken", machine(compute={"k": {"memory_read": 1e300}}, disks={"k": []}, layers={"k": 7})
    yield "machine_many", machine(layers={str(i): i for i in range(40)})
    yield "machine_deep", machine()[:-1] + b',"a":' + b"[" * 2000 + b"]" * 2000 + b"}"
    huge = {"xxh3": "ffffffffffffffff", "bytes": (1 << 64) - 1, "lines": (1 << 64) - 1, "requests": 1}
    for name, text in (("record", record()), ("record_found", record(found={"device": "cpu"})), ("record_fraction", record(shard=1e300)),
                       ("record_lines", record(input=huge)), ("record_shards", record(shards=(1 << 31) - 1)),
                       ("record_torn", record()[:90]), ("record_deep", b"[" * 3000)):
        yield name, b"j" + text
    whole = result(2) + result(1) + "\n" + result(5, failed=True)
    for name, of, text in (("results", record(), whole), ("results_all", record(), "".join(map(result, range(1, 6)))),
                           ("results_torn", record(), whole + result(3)[:50]), ("results_twice", record(), whole + result(1)),
                           ("results_zeros", record(), whole + "\0" * 64), ("results_holes", record(), whole + "\0\n" + result(3)),
                           ("results_other", record(), result(1, hash=1)), ("results_lines", record(input=huge), result(1 << 60, hash=(1 << 64) - 1)),
                           ("results_shard", record(shard=2, shards=3), result(2)), ("results_shards", record(shards=(1 << 31) - 1), result(1))):
        yield name, b"r" + of + b"\0" + text.encode()


def main():
    corpus = pathlib.Path(sys.argv[1])
    for folder, suffix, items in (("skew", "gguf", skews()), ("cache_files", "kept", kept())):
        (corpus / folder).mkdir(parents=True, exist_ok=True)
        for name, data in items:
            (corpus / folder / f"seed_{name}.{suffix}").write_bytes(data)


if __name__ == "__main__":
    main()

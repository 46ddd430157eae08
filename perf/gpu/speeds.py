"""The stages that measure: limits, perf, peers. A speed stands beside the limit it is a share of, measured in the same run."""

import json
import os
import pathlib
import sys

import models
import places
import record as records

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers"))
import common  # noqa: E402

TYPES = ("q4_0", "q8_0")
NO_SPEED = {"emulated": "what was measured on an emulated device is no speed, and is not kept"}


def measured(context, read):
    """Under the emulation a program must run and say something that can be read; what it says is not kept."""
    if not context.emulated:
        return read

    def without(out, err):
        read(out, err)
        return NO_SPEED

    return without


def need(record, context, name):
    program = context.places.program(name)
    if program is None:
        record.note(name, "missing", f"{name} is not in this build")
    return program


# ---- limits


def limits(record, context):
    """Copies each way and both at once, device memory, a large matrix product, gather, disk."""
    model = models.make(record, context, *standing_model(context, "q4_0"))
    machine_limits(record, context, "machine", model)
    link = need(record, context, "link_perf")
    if link:
        few = ["--mib", 1, "--device-mib", 2, "--passes", 1, "--pinned-only"] if context.emulated else []
        record.run("link", [link, *few], limit=90, read=measured(context, records.read_json))
    gather = need(record, context, "gather_perf")
    if gather:
        few = ["--pool-mib", 1, "--mib", 1, "--passes", 1] if context.emulated else []
        record.run("gather", [gather, *few], limit=90, read=measured(context, records.read_json))
    disk = need(record, context, "disk_perf")
    if disk and model:
        some = (
            ["--mib", 1, "--request-kib", 64, "--depth", 2, "-r", 1]
            if context.emulated
            else ["--mib", 2048, "--depth", 16]
        )
        record.run("disk", [disk, *some, model], limit=120, read=measured(context, records.read_json))
    products = need(record, context, "product_perf")
    if products:
        few = ["--side", 32, "--divide", 32, "--passes", 1] if context.emulated else []
        record.run(
            "products", [products, *few], limit=90, read=measured(context, records.read_json), env=cublas(context)
        )
    if context.emulated:
        record.note("matrix product", "skipped", "there is no GPU")
        return
    script = pathlib.Path(__file__).with_name("matrix_product.py")
    record.run(
        "matrix product",
        [context.python, script],
        limit=90,
        read=records.read_json,
        refused=("No module named", "no CUDA device"),
    )


def cublas(context):
    """Where cuBLAS may lie beside the places that the loader knows: PyTorch's wheels bring it."""
    script = (
        "import glob, os, site; print(os.pathsep.join({os.path.dirname(path) for folder in site.getsitepackages() "
        "for path in glob.glob(folder + '/nvidia/*/lib/libcublas.so.*')}))"
    )
    known = [os.environ.get("LD_LIBRARY_PATH", ""), places.output([context.python, "-c", script]).strip()]
    return {"LD_LIBRARY_PATH": os.pathsep.join(folder for folder in known if folder)}


def machine_limits(record, context, part, model=None):
    """What the planner would measure, and in which state the GPU was."""
    if context.emulated:
        record.note(part, "skipped", "its products take minutes on an emulated device, and say nothing")
        return None
    program = need(record, context, "limits")
    if not program:
        return None
    state = places.gpu_state(context.gpu)
    record.note(f"{part}: state of the GPU", "passed" if state else "missing", result=state)
    paths = ["-m", model, "--disk-dir", context.places.work] if model else []
    return record.run(
        part, [program, "--device", context.device, "--seconds", 6, *paths], limit=60, read=records.read_json
    )


def standing_model(context, kind):
    """Name and flags of make_model for the 7B shape; a tiny one where nothing is measured."""
    small = ("--shape", "tiny", "--type", kind, "--layers", 8, "--ffn", 1024)
    return (f"tiny-{kind}", *small) if context.emulated else (f"7b-{kind}", "--shape", "7b", "--type", kind)


# ---- perf


def perf(record, context):
    """The operations, then 7B-shaped models: all on the device, half of the weights from host memory, half from disk.

    The first two with CUDA graphs and without.
    """
    before = machine_limits(record, context, "limits before")
    operations = need(record, context, "ops_perf")
    if operations and context.emulated:
        record.note("operations", "skipped", "matrices of a real size take minutes on an emulated device")
    elif operations:
        report = context.places.work / "ops_perf.json"
        record.run(
            "operations",
            [operations, "--device", context.device, "--seconds", 0.1, "--json", report],
            limit=200,
            read=lambda _out, _err: json.loads(report.read_text()),
        )
    for kind in TYPES:
        model = models.make(record, context, *standing_model(context, kind))
        if model:
            for case in ("resident", "stream-host", "stream-disk"):
                speed_of(record, context, f"{case} {kind}", model, case, before)
                if case in ("resident", "stream-host"):  # the pair: what launches cost
                    part = f"{case} {kind} without graphs"
                    speed_of(record, context, part, model, case, before, ["--no-cuda-graphs"])
    machine_limits(record, context, "limits after")


def speed_of(record, context, part, model, case, limits_now, more=()):
    """One row of the standing set: speed, bytes moved for a token, and their share of the limit."""
    positions = 768
    whole = models.plan(record, context, model, positions)
    if whole is None:
        return
    weights, total = whole["tiers"]["device"]["weights"], models.device_total(whole)
    amount = {"resident": [512, 128, 3], "stream-host": [512, 24, 3], "stream-disk": [0, 4, 3]}[case]
    if context.emulated:
        amount = [8 if amount[0] else 0, 2, 1]
    host = {"resident": 0, "stream-host": int(weights + (256 << 20)), "stream-disk": 6 << 20}[case]
    _, read_bytes = common.model_bytes(model)
    drive = drive_speed(record, context, model, f"{part}: drive") if case == "stream-disk" else 0
    command = models.spillway(
        context, "bench", "-m", model, "-c", positions, "-p", amount[0], "-n", amount[1], "-r", amount[2], "-o", "json"
    )

    def read(out, _err):
        return rows_of(
            json.loads(out), read_bytes, limits_now if not context.emulated else None, drive, context.emulated
        )

    if case == "resident":
        record.run(part, [*command, *more], limit=120, read=read)
    else:
        step = max(weights // 32, 64 << 10)
        models.fit(record, context, part, command, total - weights // 2, step, 150, read, host, more)


def drive_speed(record, context, model, part):
    """Bytes a second of O_DIRECT reads in file order, the median of the methods; 0 where none can be had."""
    program = need(record, context, "disk_perf")
    if not program or context.emulated:
        return 0

    def read(out, _err):
        speeds = [row["gb_per_second"] * 1e9 for row in json.loads(out)["rows"] if "page cache" not in row["asked"]]
        return {"bytes_per_second": common.median(speeds)}

    found = record.run(part, [program, "--mib", 2048, "--depth", 16, model], limit=90, read=read)
    return found["bytes_per_second"] if found else 0


def rows_of(rows, read_bytes, limits_now, drive, emulated):
    """Of bench's rows: speed, bytes, shares. Without speeds where the device is emulated."""
    compute = (limits_now or {}).get("compute", {})
    found = {"weight_bytes_per_token": read_bytes}
    for row in rows:
        name = "prefill" if row["n_prompt"] else "decode"
        moved = row["bytes_per_token"]
        found[name] = {"bytes_per_token": moved}
        if emulated:
            continue
        speed = row["avg_ts"]
        found[name].update(tokens_per_second=speed, deviation=row["stddev_ts"], samples=row["samples_ts"])
        shares = {
            "host_to_device": (moved["host_to_device"], compute.get("host_to_device", 0)),
            "disk_read": (moved["disk_read"], drive),
        }
        if name == "decode":
            # What is streamed passes the device's memory too, once written and once read.
            shares["device_memory"] = (read_bytes, compute.get("device_memory", 0))
        found[name]["share_of_limit"] = {
            what: round(bytes_ * speed / limit, 4) for what, (bytes_, limit) in shares.items() if bytes_ and limit
        }
        found[name]["disk_busy_share"] = row["disk_busy_share"]
    return found


# ---- peers


def peers(record, context):
    """Spillway beside transformers + accelerate at the same max_memory, and beside llama.cpp, in turn (A B A B).

    Under the emulation all of it runs once, small and on the CPU, and keeps no speed.
    """
    beside_accelerate(record, context)
    if context.llama_cpp is None:
        record.note("llama.cpp", "missing", "--llama-cpp DIR names no source folder")
    else:
        beside_llama(record, context)


def beside_accelerate(record, context):
    """A 7B-shaped model in half precision, 6 GiB of it on the GPU, the rest in host memory."""
    script = pathlib.Path(__file__).resolve().parents[1] / "peers" / "accelerate_speed.py"
    if context.emulated:
        model = models.make(record, context, "tiny-f16", "--shape", "tiny", "--type", "f16")
        amount, budgets = [8, 2, 1], []
        shape = ["--layers", 2, "--hidden", 64, "--heads", 4, "--kv-heads", 2, "--ffn", 128, "--vocab", 320]
        peer = ["--gpu-bytes", 0, "--cpu-bytes", 1 << 30, "-p", 8, "-n", 2, *shape]
        what, turns = "f16", (1,)
    else:
        budget = 6 << 30
        model = models.make(record, context, "7b-f16", "--shape", "7b", "--type", "f16")
        amount, budgets = [128, 8, 1], ["--device-mem", budget, "--host-mem", 16 << 30]
        peer = ["--gpu-bytes", budget, "--cpu-bytes", 32 << 30, "-p", 128, "-n", 8]
        what, turns = "f16, 6 GiB on the GPU", (1, 2)
    for turn in turns:
        if model:
            bench(record, context, f"spillway {what}, {turn}", model, amount, budgets)
        record.run(
            f"accelerate {what}, {turn}",
            [context.python, script, *peer],
            limit=200,
            read=measured(context, records.read_json),
            refused=("No module named", "no CUDA device"),
        )


def bench(record, context, part, model, amount, more):
    def read(out, _err):
        return {("prefill" if row["n_prompt"] else "decode"): row["avg_ts"] for row in json.loads(out)}

    command = models.spillway(
        context, "bench", "-m", model, "-c", 768, "-p", amount[0], "-n", amount[1], "-r", amount[2], "-o", "json"
    )
    return record.run(part, [*command, *more], limit=150, read=measured(context, read))


def beside_llama(record, context):
    folder = context.llama_cpp / "build"
    program = folder / "bin" / "llama-bench"
    if not program.is_file():
        folder = context.places.work / "llama.cpp"
        program = folder / "bin" / "llama-bench"
    if not program.is_file():
        cmake = places.tool("cmake")
        if cmake is None:
            record.note("llama.cpp: build", "missing", "cmake is not on this machine")
            return
        record.run(
            "llama.cpp: configure",
            [
                cmake,
                "-S",
                context.llama_cpp,
                "-B",
                folder,
                "-DCMAKE_BUILD_TYPE=Release",
                *([] if context.emulated else ["-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"]),
                "-DLLAMA_CURL=OFF",
                "-DGGML_CUDA_FA_ALL_QUANTS=OFF",
            ],
            limit=120,
        )
        # Goes on where an earlier call ended.
        record.run("llama.cpp: build", [cmake, "--build", folder, "-j", "--target", "llama-bench"], limit=470)
        if not program.is_file():
            return
    for kind in TYPES:
        model = models.make(record, context, *standing_model(context, kind))
        if not model:
            continue
        amount = [8, 2, 1] if context.emulated else [512, 128, 1]
        layers = 0 if context.emulated else 99
        for turn in (1,) if context.emulated else (1, 2):
            bench(record, context, f"spillway {kind} resident, {turn}", model, amount, [])
            record.run(
                f"llama.cpp {kind} resident, {turn}",
                [program, "-m", model, "-ngl", layers, "-p", amount[0], "-n", amount[1], "-r", amount[2], "-o", "json"],
                limit=90,
                read=measured(context, llama_rows),
            )


def llama_rows(out, _err):
    return {("prefill" if row["n_prompt"] else "decode"): row["avg_ts"] for row in json.loads(out)}

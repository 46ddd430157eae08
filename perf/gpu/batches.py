"""The stage that runs a batch job of a published shape: OPT-6.7B, in the published budget, and half of it from host memory."""

import json
import random

import models
import record as records
import speeds

# FlexGen's workload (README of its repository at 004ffef): prompts of 512 tokens, answers of 32, on a T4 with 16 GB, of
# which its cost model plans with 15 GiB; 25.26 tokens/s there.
DEVICE = 15 << 30
SHAPE = ("opt-6.7b-f16", "--shape", "opt-6.7b", "--type", "f16")
WORK = {"requests": 64, "prompt": 512, "answer": 32, "chunk": 2048}
# The same without a GPU: that it runs.
TINY = ("--layers", 4, "--hidden", 128, "--heads", 2, "--kv-heads", 2, "--head-dim", 64, "--ffn", 512)
TINY_SHAPE = ("tiny-opt-f16", "--shape", "opt-125m", "--type", "f16", *TINY, "--vocab", 320, "--context", 256)
TINY_WORK = {"requests": 5, "prompt": 12, "answer": 3, "chunk": 24}


def batch(record, context):
    """Many requests at once through `spillway batch`, in FlexGen's budget, and with half of the weights in host memory."""
    model = models.make(record, context, *(TINY_SHAPE if context.emulated else SHAPE))
    if not model:
        return
    work = TINY_WORK if context.emulated else WORK
    requests = write_requests(context, work)
    limits_now = speeds.machine_limits(record, context, "limits before")
    whole = models.plan(record, context, model, work["prompt"] + work["answer"])
    if whole is None:
        return
    weights, total = whole["tiers"]["device"]["weights"], models.device_total(whole)
    budgets = {
        "the published budget": 2 * total if context.emulated else min(DEVICE, most_device_bytes(context)),
        "half of the weights in host memory": total - weights // 2,
    }
    for name, device in budgets.items():
        job(record, context, f"batch {model.stem}, {name}", model, requests, work, (device, weights), limits_now)


def most_device_bytes(context):
    """Nine tenths of what the GPU has."""
    mib = context.facts()["device_memory_mib"]
    return int(mib) * models.MIB // 10 * 9 if mib.isdigit() else DEVICE


def write_requests(context, work):
    """The path of an input of equal requests, no two of which begin alike."""
    path = context.places.work / "batch-{requests}x{prompt}+{answer}.jsonl".format(**work)
    draw = random.Random(1)
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "prompt": [3 + number, *(draw.randrange(3, 300) for _ in range(work["prompt"] - 1))],
                "max_tokens": work["answer"],
                "temperature": 0,
            },
        }
        for number in range(work["requests"])
    ]
    records.write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def job(record, context, part, model, requests, work, memory, limits_now):
    device, weights = memory
    out = context.places.work / "batch-out.jsonl"
    if not record.done(part):  # an answer of an earlier call would be an answer less to time
        for path in (out, out.with_name(out.name + ".journal")):
            path.unlink(missing_ok=True)
    link = 0 if context.emulated else (limits_now or {}).get("compute", {}).get("host_to_device", 0)
    command = models.spillway(
        context, "batch", "-m", model, "-i", requests, "-o", out, "-ub", work["chunk"], "--ignore-eos", "--json"
    )
    models.fit(
        record,
        context,
        part,
        command,
        device,
        max(weights // 32, 64 << 10),
        240,
        lambda said, _err: result_of(json.loads(said), work, link, context.emulated),
        int(weights + (256 << 20)),
    )


def result_of(said, work, link, emulated):
    """Of batch's JSON: what was answered and moved, and how fast; without speeds where the device is emulated."""
    answered = (said["answered"], said["answered_before"], said["errors"], said["tokens_out"])
    if answered != (work["requests"], 0, 0, work["requests"] * work["answer"]):
        raise records.Unread(f"answered, before, errors, tokens: {answered}")
    moved = {way: sum(causes.values()) for way, causes in said["bytes"].items()}
    found = {
        **work,
        "at_once": said["most_sequences"],
        "passes": said["passes"],
        "weights": {tier: held["weights"] for tier, held in said["plan"]["tiers"].items()},
        "kv": {tier: held["kv"] for tier, held in said["plan"]["tiers"].items()},
        "bytes": moved,
    }
    if emulated:
        return found
    # FlexGen's generation throughput: tokens of answers over the time of prompts and answers.
    found["generated_tokens_per_second"] = said["tokens_out"] / said["seconds"]
    found["seconds"], found["expected_s"], found["passes_s"] = said["seconds"], said["expected_s"], said["passes_s"]
    if link and moved["host_to_device"]:
        found["share_of_limit"] = {"host_to_device": round(moved["host_to_device"] / said["seconds"] / link, 4)}
    return found

"""Model files made on the spot, and budgets that place them in a wanted way."""

import json
import re

MIB = 1 << 20
NOT_FITTING = 4  # spillway's exit code


def make(record, context, name, *flags, limit=240):
    """The path of a model of perf/make_model's; made where it is not there yet. None where it cannot be made."""
    path = context.places.work / f"{name}.gguf"
    part = f"make {name}"
    if path.is_file() and record.done(part):
        record.asked.append(part)
        return path
    program = context.places.program("make_model")
    if program is None:
        record.note(part, "missing", "make_model is not in this build")
        return None
    record.parts().pop(part, None)
    record.run(part, [program, "-o", path, *flags], limit=limit)
    return path if record.done(part) and path.is_file() else None


def spillway(context, *words):
    """All layers on the device: what does not fit streams. Layers on the CPU would be another device, with other bits."""
    return [context.places.program("spillway"), *words, "--device", context.device, "-ngl", "all"]


def plan(record, context, model, positions, *budgets, part=None):
    """The plan as JSON, or None where it is refused."""

    def read(out, _err):
        found = json.loads(out)
        found["tensors"] = len(found["tensors"])
        return found

    return record.run(
        part or f"plan {model.stem}",
        spillway(context, "plan", "-m", model, "-c", positions, "--json", *budgets),
        limit=60,
        read=read,
    )


def device_total(planned):
    tier = planned["tiers"]["device"]
    return sum(tier[what] for what in ("weights", "kv", "workspace", "rings", "process"))


def nearest(why, flag):
    """Bytes of the budget that a refusal names as the nearest fit, alternatives aside; 0 where it names none."""
    named = re.search(rf"nearest fit:[^,]*{flag} (\d+)(GiB|MiB|KiB|)", why)
    return int(named[1]) * {"GiB": 1 << 30, "MiB": MIB, "KiB": 1 << 10, "": 1}[named[2]] if named else 0


def fit(record, context, part, command, device_bytes, step, limit, read, host_bytes=0, more=(), attempts=24):
    """Runs the command with the smallest budgets from these on that are not refused.

    A refusal names the nearest fit; where it does not, the device gets a step more.
    """
    if record.done(part):
        record.asked.append(part)
        return record.result(part)
    for _ in range(attempts):
        budgets = ["--device-mem", int(device_bytes), *(["--host-mem", int(host_bytes)] if host_bytes else [])]
        result = record.run(part, [*command, *budgets, *more], limit=limit, read=read, not_yet=NOT_FITTING)
        state = record.parts()[part]
        if result is not None or state.get("exit") != NOT_FITTING:
            return result
        on_host = nearest(state["why"], "--host-mem")
        if on_host > host_bytes:
            host_bytes = on_host
        else:
            device_bytes = max(nearest(state["why"], "--device-mem"), device_bytes + step)
    return None

"""The stages that pass or fail: smoke, primitives, ops, e2e, sanitizer."""

import hashlib
import json

import gtest
import models
import places
import record as records

# Suites of tests/kernels/cuda_emulated.h's fixture, and of graphs.
KERNEL_TESTS = r"^Cuda(?:(?!Device|Stream|Context|Ops|Module|Graph)\w+Test|Emulated|SelectionReplay)\."
# Of the grid what those leave out, and what is not too long under a tool: the kernels of packed pages, of choice, of experts.
GRID_TESTS = r"OpGrid(?:Packed|Selected|Selection|Policies|Experts|Family|Rows)"
TOKENS = 40  # of the prompt in placement runs
# What compute-sanitizer itself says when it may not, or cannot, look at the program. Errors of the program read otherwise.
REFUSED = (
    "ERR_NVGPUCTRPERM",
    "Error: Failed to initialize",
    "LibraryNotLoaded",
    "Unable to attach",
    "========= Error: Device not supported",
    "ptrace: Operation not permitted",
)


def tests_wanted(context, grid):
    """The grid's rows for this device: the table of backends names them."""
    return rf"(?:^|/){grid}.*/{'cuda_emulated' if context.emulated else 'cuda'}$"


# ---- smoke


def smoke(record, context):
    """The module opens, the device is named, some operations are right, a tiny model says the same from two placements."""
    check = context.places.program("cuda_module_check")
    limit = 240 if context.emulated else 60  # a busy machine has no minute to spare
    if context.emulated:
        read_report(record, context)
    elif check is None:
        record.note("module", "missing", "cuda_module_check is not in this build")
    else:
        record.run("module", [check, context.places.module()], limit=60, read=one_device)
    gtest.run_suites(
        record,
        context,
        "kernels_tests",
        tests_wanted(context, "OpGridRows"),
        limit=limit,
    )
    tiny = models.make(record, context, "tiny", "--shape", "tiny")
    if tiny:
        placements(record, context, tiny, "generate", count=2, limit=limit)


def one_device(out, _err):
    line = out.strip()
    if line.startswith("no CUDA device"):
        raise records.Unread(line)
    return {"report": line}


def read_report(record, context):
    """Which module runs in the GPU's place."""
    record.note(
        "module",
        "passed",
        result={"report": places.EMULATED_DEVICE, "file": context.environment["SPILLWAY_CUDA_MODULE"]},
    )


# ---- a model over the tiers


def placements(record, context, model, work, count, limit, positions=128):
    """The same work at several budgets: everything on the device, then less and less of it, in host memory and on disk.

    Where a byte lies must not change the answer: ids of generate, or the bits of the logits of score.
    """
    whole = models.plan(record, context, model, positions)
    if whole is None:
        return
    weights, kv = whole["tiers"]["device"]["weights"], whole["tiers"]["device"]["kv"]
    total = models.device_total(whole)
    answers = {}
    for name, less, host, more in budget_grid(weights, kv, context.places.work)[:count]:
        part = f"{work} {model.stem}, {name}"
        logits = context.places.work / f"logits-{hashlib.sha1(part.encode()).hexdigest()[:8]}.npy"
        tokens = ",".join(str(3 + 7 * i % 200) for i in range(TOKENS))
        if work == "generate":
            words = ["generate", "-m", model, "-c", positions, "-p", "abc", "-n", 12, "--temp", 0, "--json"]
        else:
            words = [
                "score",
                "-m",
                model,
                "-c",
                positions,
                "--tokens",
                tokens,
                "--prefill",
                TOKENS // 2,
                "--json",
                "--logits",
                logits,
            ]
        answer = models.fit(
            record,
            context,
            part,
            models.spillway(context, *words),
            total - less,
            max(weights // 16, 64 << 10),
            limit,
            answer_of(work, logits),
            host,
            more,
        )
        if answer:
            answers[name] = answer["answer"]
    compare(record, f"{work} {model.stem}: every placement, one answer", answers, count)


def budget_grid(weights, kv, work):
    """(name, bytes less than all on the device, bytes of host memory, more flags), the plainest first."""
    plenty, little = int(weights + kv + (64 << 20)), 6 << 20  # little: the staging of what comes from disk
    disk = ["--disk-mem", int(2 * kv + (1 << 20)), "--disk-dir", work]
    return [
        ("all on the device", 0, plenty, []),
        ("half of the weights in host memory", weights // 2, plenty, []),
        ("half of the weights on disk", weights // 2, little, []),
        ("little on the device", weights + kv // 2, plenty, disk),
        ("little anywhere", weights + kv // 2, little, disk),
        ("no lookahead", weights // 2, little, ["--lookahead", 1]),
    ]


def answer_of(work, logits):
    def read(out, _err):
        found = json.loads(out)
        if work == "generate":
            answer = {"answer": found["tokens"]}
            tiers = found["plan"]["tiers"]
            answer["weights"] = {tier: tiers[tier]["weights"] for tier in tiers}
            answer["kv"] = {tier: tiers[tier]["kv"] for tier in tiers}
            answer["bytes"] = {link: sum(causes.values()) for link, causes in found["bytes"].items()}
            return answer
        return {"answer": hashlib.sha256(logits.read_bytes()).hexdigest(), "nll": found["nll"]}

    return read


def compare(record, name, answers, wanted):
    record.parts().pop(name, None)
    if len(answers) < 2:
        record.note(name, "left" if record.left() < 5 else "failed", f"{len(answers)} of {wanted} placements ran")
    elif len({json.dumps(answer) for answer in answers.values()}) == 1:
        record.note(name, "passed", result={"placements": list(answers), "answer": next(iter(answers.values()))})
    else:
        record.note(name, "failed", "the answers differ", result=answers)


# ---- primitives, ops, e2e


def primitives(record, context):
    """Each kernel's own tests: on a GPU the same as under the emulation, but for those that are about the emulation."""
    wanted = KERNEL_TESTS
    gtest.run_suites(
        record, context, "kernels_tests", wanted, limit=200, env={} if context.emulated else {"SPILLWAY_TEST_GPU": "1"}
    )


def ops(record, context):
    """The grid of operations on this device, against the reference in double precision."""
    gtest.run_suites(record, context, "kernels_tests", tests_wanted(context, "OpGrid"), limit=240)


def e2e(record, context):
    """The whole engine: the placement tests that name this device, and the command's answers at several budgets."""
    gtest.run_suites(
        record,
        context,
        "runtime_tests",
        r"^Cuda(?:Placement|Selection)\.",
        limit=300,
        env={} if context.emulated else {"SPILLWAY_TEST_GPU": "1"},
    )
    tiny = models.make(record, context, "tiny", "--shape", "tiny")
    if tiny:
        placements(record, context, tiny, "score", count=6, limit=120)
    if context.emulated:
        return
    small = models.make(record, context, "smollm2-q4_1", "--shape", "smollm2", "--type", "q4_1")
    if small:
        placements(record, context, small, "score", count=6, limit=60, positions=512)
        near_the_cpu(record, context, small)


def near_the_cpu(record, context, model):
    """The device's logits beside the CPU's: not the same bits, but the same distribution."""
    tool = context.places.program("compare_logits")
    if tool is None:
        record.note("near the CPU", "missing", "compare_logits is not in this build")
        return
    tokens = ",".join(str(3 + 7 * i % 200) for i in range(TOKENS))
    files = {}
    for device in (context.device, "cpu"):
        files[device] = context.places.work / f"logits-{device.replace(':', '')}.npy"
        record.run(
            f"logits of {device}",
            [
                context.places.program("spillway"),
                "score",
                "-m",
                model,
                "-c",
                512,
                "--tokens",
                tokens,
                "--json",
                "--logits",
                files[device],
                "--device",
                device,
            ],
            limit=120,
        )

    def read(out, _err):
        found = json.loads(out.splitlines()[0])
        if not found["kl_mean"] < 0.02:
            raise records.Unread(f"mean KL to the CPU {found['kl_mean']}")
        return found

    record.run("near the CPU", [tool, files["cpu"], files[context.device]], limit=60, read=read)


# ---- sanitizer


def sanitizer(record, context):
    """compute-sanitizer's memcheck and racecheck over each kernel's own tests, and the grid's of those that have none."""
    if context.emulated:
        record.note(
            "compute-sanitizer", "skipped", "it knows GPUs only; the emulation runs under AddressSanitizer in CI"
        )
        return
    program = places.tool("compute-sanitizer")
    if program is None:
        record.note("compute-sanitizer", "missing", "compute-sanitizer is not on this machine")
        return
    tiny = models.make(record, context, "tiny", "--shape", "tiny")
    for tool in ("memcheck", "racecheck"):
        under = [program, "--tool", tool, "--error-exitcode", record.FOUND, "--print-limit", 20]
        for wanted, env in (
            (KERNEL_TESTS, {"SPILLWAY_TEST_GPU": "1"}),
            (tests_wanted(context, GRID_TESTS), None),
        ):
            gtest.run_suites(
                record,
                context,
                "kernels_tests",
                wanted,
                limit=150,
                under=under,
                refused=REFUSED,
                prefix=f"{tool} ",
                env=env,
            )
        if tiny:
            record.run(
                f"{tool} generate",
                [
                    *under,
                    *models.spillway(
                        context, "generate", "-m", tiny, "-c", 64, "-p", "abc", "-n", 3, "--temp", 0, "--json"
                    ),
                ],
                limit=120,
                refused=REFUSED,
            )

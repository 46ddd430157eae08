"""A GPU run: what was run and what it said, stage by stage, then its speeds beside the limits of the same run."""

import common
import svg_plot

GB = 1e9
CASES = ("resident", "stream-host", "stream-disk")
WITHOUT_GRAPHS = " without graphs"


def section(report, runs):
    real = {
        folder: stages for folder, stages in runs.items() if not any(stage["emulated"] for stage in stages.values())
    }
    if not real:
        report.add("## GPU", "No figure from a GPU exists so far.")
    for folder, stages in runs.items():
        run(report, folder.name, stages)


def run(report, name, stages):
    first = next(iter(stages.values()))
    emulated = first["emulated"]
    facts = [
        first["device"],
        f"driver {first['driver']}" if first["driver"] else "",
        f"CUDA {first['cuda']}" if first["cuda"] else "",
        first["pcie"] and f"PCIe {first['pcie']}",
        f"commit {first['commit']}",
        f"{first['host']['processor']}, {first['host']['cores']} cores, {first['host']['memory_gib']} GiB",
    ]
    report.add(f"## {name}" + (": emulated, no speeds" if emulated else ""), "; ".join(fact for fact in facts if fact))
    report.add(
        common.table(["stage", "state", "parts", "tests", "seconds"], [stage_row(stage) for stage in stages.values()])
    )
    troubles = [
        line
        for stage in stages.values()
        for part, said in stage["parts"].items()
        for line in trouble(stage["stage"], part, said)
    ]
    if troubles:
        report.add(*troubles)
    if emulated:
        return
    for stage, render in (("limits", limits), ("perf", perf), ("batch", batch), ("peers", peers)):
        if stage in stages:
            render(report, name, stages[stage])


def trouble(stage, part, said):
    """Lines on what did not pass."""
    failures = said["result"].get("failures", {}) if isinstance(said.get("result"), dict) else {}
    for test, words in failures.items():
        yield f"- {stage}: {test}: {words.splitlines()[-1][:200] if words else 'failed'}"
    if said["status"] not in ("passed", "skipped") and not failures:
        why = said.get("why", "").splitlines()
        yield f"- {stage}, {part}: {said['status']}" + (f": {why[-1][:200]}" if why else "")


def results(stage):
    return {
        name: part["result"]
        for name, part in stage["parts"].items()
        if part["status"] == "passed" and part.get("result")
    }


def stage_row(stage):
    states = [part["status"] for part in stage["parts"].values()]
    tests = [
        part["result"]
        for part in stage["parts"].values()
        if isinstance(part.get("result"), dict) and "failures" in part["result"]
    ]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    ran = sum(result["tests"] for result in tests)
    failed = sum(len(result["failures"]) for result in tests)
    return [
        stage["stage"],
        stage["status"],
        counts,
        f"{ran} run, {failed} failed" if tests else "",
        f"{stage['wall_s']:.0f}",
    ]


# ---- limits


def limits(report, name, stage):
    found = results(stage)
    rows = []
    machine = found.get("machine", {}).get("compute", {})
    for key, what in (
        ("host_to_device", "host to device, pinned"),
        ("device_to_host", "device to host, pinned"),
        ("device_memory", "device memory, read and written by a copy"),
        ("memory_read", "host memory, read"),
    ):
        if machine.get(key):
            rows.append([what, f"{machine[key] / GB:.1f} GB/s"])
    if "link" in found and found["link"]["rows"]:
        longest = found["link"]["rows"][-1]
        for key, what in (
            ("pinned_both_ways", "both ways at once, sum"),
            ("pageable_to_device", "host to device, pageable"),
            ("pageable_to_host", "device to host, pageable"),
        ):
            if key in longest:
                rows.append([what, f"{longest[key] / GB:.1f} GB/s"])
    for kind, flops in found.get("products", {}).get("flops", {}).items():
        rows.append([f"matrix product by cuBLAS, {kind}, sums in float32", f"{flops / 1e12:.1f} TFLOP/s"])
    for kind, flops in found.get("matrix product", {}).get("flops", {}).items():
        rows.append([f"matrix product by cuBLAS, {kind}", f"{flops / 1e12:.1f} TFLOP/s"])
    for row in found.get("disk", {}).get("rows", [])[:4]:
        rows.append([f"disk, {row['asked']}", f"{row['gb_per_second']:.2f} GB/s"])
    if rows:
        report.add(common.table(["limit", "measured"], rows))
    if found.get("products", {}).get("rows"):
        report.add(products_table(found["products"]))
    if "link" in found:
        link_plot(report, name, found["link"])
    products(report, found.get("products", {}))
    if "gather" in found:
        gather_plot(report, name, found["gather"])


def products_table(products):
    rows = []
    for row in products["rows"]:
        share = f"{100 * row['share_of_peak']:.1f} %" if "share_of_peak" in row else products.get("no_peak", "")
        shape = f"{row['m']} x {row['k']} by {row['n']}"
        rows.append([row["type"], shape, f"{row['flops'] / 1e12:.2f} TFLOP/s", share])
    return common.table(["weight", "product", "speed", "of cuBLAS F16"], rows)


def products(report, found):
    """Our products beside cuBLAS's large one in half precision."""
    if not found.get("rows"):
        return
    peak = found.get("flops", {}).get("float16")
    report.add(
        f"Matrix products; cuBLAS, {found['side']} cubed, F16: {peak / 1e12:.1f} TFLOP/s"
        if peak
        else f"Matrix products; no peak beside them: {found.get('no_peak', '')}"
    )
    rows = [
        [
            row["type"],
            row["m"],
            f"{row['n']} x {row['k']}",
            f"{row['flops'] / 1e12:.1f} TFLOP/s",
            f"{100 * row['share_of_peak']:.0f} %" if "share_of_peak" in row else "",
        ]
        for row in found["rows"]
    ]
    report.add(common.table(["weights", "rows of x", "matrix", "speed", "share of the peak"], rows))


def link_plot(report, name, link):
    names = {
        "pinned_to_device": "to device",
        "pinned_to_host": "to host",
        "pinned_both_ways": "both at once",
        "pageable_to_device": "pageable, to device",
        "pageable_to_host": "pageable, to host",
    }
    xs = [row["piece_bytes"] for row in link["rows"]]
    series = {text: [row[key] / GB for row in link["rows"]] for key, text in names.items() if key in link["rows"][0]}
    report.plot(
        f"{name} link",
        svg_plot.lines("Link between host and device", link["device"], "GB/s", xs, series, "bytes of one copy"),
    )


def gather_plot(report, name, gather):
    names = {
        "gather_kernel": "read by the device",
        "gather_runs": "read by the device, each row with an address of its own",
        "gathered_by_host": "gathered by the host, one copy",
        "copy_for_each": "a copy each",
        "copy": "one plain copy",
    }
    xs = [row["row_bytes"] for row in gather["rows"]]
    series = {text: [row[key] / GB for row in gather["rows"]] for key, text in names.items() if key in gather["rows"][0]}
    report.plot(
        f"{name} gather",
        svg_plot.lines("Rows gathered from pinned host memory", gather["device"], "GB/s", xs, series, "bytes of a row"),
    )


# ---- perf


def perf(report, name, stage):
    found = results(stage)
    rows, groups = [], []
    for part, result in found.items():
        case = part.split()[0]
        if case not in CASES or "decode" not in result:
            continue
        decode, prefill = result["decode"], result.get("prefill", {})
        shares = decode.get("share_of_limit", {})
        link = {"resident": "device_memory", "stream-host": "host_to_device", "stream-disk": "disk_read"}[case]
        rows.append(
            [
                part,
                f"{decode['tokens_per_second']:.2f} ± {decode['deviation']:.2f}",
                f"{prefill['tokens_per_second']:.0f}" if prefill else "",
                ", ".join(
                    f"{what} {amount / 1e6:.0f} MB" for what, amount in decode["bytes_per_token"].items() if amount
                )
                or "nothing",
                ", ".join(f"{what} {100 * share:.0f} %" for what, share in shares.items()),
            ]
        )
        if link in shares and not part.endswith(WITHOUT_GRAPHS):
            groups.append((part.replace(" ", "\n"), {"share": 100 * shares[link]}, 100))
    if rows:
        report.add(
            common.table(
                ["work", "decode tok/s", "prefill tok/s", "moved a token", "share of the measured limit"], rows
            )
        )
    if groups:
        report.plot(
            f"{name} share",
            svg_plot.bars(
                "Decode beside the limit that binds",
                "device memory, link or drive, measured in the same run",
                "% of the limit",
                groups,
                ["share"],
                "the limit",
            ),
        )
    graphs(report, found)
    operations(report, name, found.get("operations", {}).get("rows", []))


def graphs(report, found):
    """Decode with CUDA graphs beside decode with a launch for each kernel."""
    rows = []
    for part, plain in found.items():
        replayed = found.get(part.removesuffix(WITHOUT_GRAPHS), {})
        if not part.endswith(WITHOUT_GRAPHS) or "decode" not in plain or "decode" not in replayed:
            continue
        speeds = [result["decode"]["tokens_per_second"] for result in (replayed, plain)]
        rows.append(
            [part.removesuffix(WITHOUT_GRAPHS), *(f"{speed:.2f}" for speed in speeds), f"{speeds[0] / speeds[1]:.2f}"]
        )
    if rows:
        report.add(common.table(["work", "decode tok/s with CUDA graphs", "without", "ratio"], rows))


def operations(report, name, rows):
    if not rows:
        return
    report.add(
        common.table(
            ["operation", "speed", "limit", "share"],
            [
                [
                    row["name"],
                    f"{row['value']:.1f} {row['unit']}",
                    f"{row['limit']:.1f}" if row["limit"] else "",
                    f"{100 * row['value'] / row['limit']:.0f} %" if row["limit"] else "",
                ]
                for row in rows
            ],
        )
    )


# ---- batch


def batch(report, _name, stage):
    rows = []
    for part, result in results(stage).items():
        if "generated_tokens_per_second" not in result:
            continue
        share = result.get("share_of_limit", {}).get("host_to_device")
        rows.append(
            [
                part,
                f"{result['requests']} of {result['prompt']} + {result['answer']}",
                f"{result['at_once']}",
                f"{result['generated_tokens_per_second']:.2f}",
                f"{result['bytes']['host_to_device'] / 1e9:.1f} GB",
                f"{100 * share:.0f} %" if share else "",
            ]
        )
    if rows:
        report.add(
            common.table(
                ["batch", "requests", "at once", "generated tok/s", "host to device", "share of the measured link"], rows
            )
        )


# ---- peers


def peers(report, name, stage):
    found = results(stage)
    pairs, others = {}, {}
    for part, result in found.items():
        if ", " not in part or "decode" not in result:
            continue
        who, rest = part.split(" ", 1)
        work, turn = rest.rsplit(", ", 1)
        (pairs if who == "spillway" else others).setdefault((work, turn), {})[who] = result
    rows, groups = [], {}
    for key, theirs in others.items():
        for who, result in theirs.items():
            ours = pairs.get(key, {}).get("spillway")
            if not ours:
                continue
            work, turn = key
            rows.append(
                [
                    f"{work}, turn {turn}",
                    who,
                    f"{ours['decode']:.2f}",
                    f"{result['decode']:.2f}",
                    f"{ours['decode'] / result['decode']:.2f}",
                ]
            )
            groups.setdefault(work, {}).setdefault("Spillway", []).append(ours["decode"])
            groups[work].setdefault(who, []).append(result["decode"])
    if not rows:
        return
    report.add(common.table(["work", "peer", "Spillway decode tok/s", "peer's", "ratio"], rows))
    series = list(dict.fromkeys(who for values in groups.values() for who in values))
    bars = [
        (work, {who: (common.median(values), min(values), max(values)) for who, values in present.items()}, None)
        for work, present in groups.items()
    ]
    report.plot(
        f"{name} peers",
        svg_plot.bars("Decode beside peers", "median and spread of runs in turn", "tokens/s", bars, series),
    )

"""What perf/peers measures on a CPU: speed and quality beside llama.cpp, and models larger than their memory."""

import common
import svg_plot

NAMES = {"spillway": "Spillway", "llama": "llama.cpp"}


def section(report, files):
    for path, data in files.items():
        if not isinstance(data, dict) or "stage" in data:
            continue
        if "prediction" in data:
            prediction(report, path, data)
        elif "ratio" in data:
            speed(report, path, data)
        elif "perplexity" in data:
            quality(report, path, data)
        elif data.get("rows") and "cap" in data["rows"][0]:
            capped(report, path, data)


def device_of(data):
    """The processor, where the file tells it."""
    for rows in (data.get("rows") or {}).values() if isinstance(data.get("rows"), dict) else []:
        for row in rows:
            if "cpu_info" in row:
                return row["cpu_info"]
    return ""


def speed(report, path, data):
    report.add(f"## {path.stem}: beside llama.cpp, {data['threads']} threads")
    kinds = {"pp": "prefill", "tg": "decode"}
    rows = []
    for kind, name in kinds.items():
        if kind not in data["ratio"]:
            continue
        ours, theirs, ratio = (data[key][kind] for key in ("spillway", "llama", "ratio"))
        rows.append(
            [
                name,
                f"{ours['median']:.1f}",
                f"{theirs['median']:.1f}",
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                data["beside"][kind],
            ]
        )
        groups = [
            (NAMES[who], {name: (data[who][kind]["median"], data[who][kind]["min"], data[who][kind]["max"])}, None)
            for who in NAMES
        ]
        report_title = f"{name}, {data['model']}"
        report.plot(
            f"{path.stem} {name}",
            svg_plot.bars(
                report_title,
                f"median and spread of {len(ours['values'])} runs in turn; " + device_of(data),
                "tokens/s",
                groups,
                [name],
            ),
        )
    report.add(common.table(["work", "Spillway tok/s", "llama.cpp tok/s", "ratio (spread)", "Spillway's rate"], rows))


def prediction(report, path, data):
    rows = data["prediction"]
    kinds = ("decode", "prefill")
    near = {kind: sum(abs(row[kind]["error"]) <= 0.15 for row in rows) for kind in kinds}
    report.add(
        f"## {path.stem}: what `plan` expects beside what `bench` measures",
        f"{data.get('machine', '')} Within 15 % of what was measured: decode in {near['decode']} of {len(rows)} settings, "
        f"prefill in {near['prefill']}.",
    )
    models = sorted({row["model"] for row in rows})
    for kind in kinds:
        report.plot(
            f"{path.stem} {kind}",
            svg_plot.against(
                f"{kind.capitalize()}: expected and measured",
                "each point is a model within budgets; the band is 15 % to either side",
                "tokens/s",
                {
                    model: [
                        (row[kind]["measured"], row[kind]["expected"], row["setting"])
                        for row in rows
                        if row["model"] == model
                    ]
                    for model in models
                },
                0.15,
                ("measured", "expected"),
            ),
        )
    report.add(
        common.table(
            ["model", "context", "setting", "binds"] + [f"{kind}: {word}" for kind in kinds for word in ("expected", "measured", "off")],
            [
                [row["model"], row["context"], row["setting"], row["bound"]]
                + [
                    text
                    for kind in kinds
                    for text in (
                        f"{row[kind]['expected']:.1f}",
                        f"{row[kind]['measured']:.1f}",
                        f"{100 * row[kind]['error']:+.0f} %",
                    )
                ]
                for row in rows
            ],
        )
    )


def quality(report, path, data):
    ppl = data["perplexity"]
    report.add(
        f"## {path.stem}: {data['model']}",
        f"Perplexity over {ppl['tokens_scored']} tokens: Spillway {ppl['spillway']:.4f}, llama.cpp {ppl['llama']:.4f} "
        f"({100 * ppl['difference']:+.3f} %).",
    )
    rows = [
        [name, row["rows"], f"{row['kl_mean']:.5f}", f"{row['kl_max']:.4f}", f"{100 * row['top1']:.2f} %"]
        for name, row in data.get("logits", {}).items()
    ]
    report.add(common.table(["logits", "rows", "mean KL (nats)", "largest KL", "same top-1"], rows))


def capped(report, path, data):
    report.add(f"## {path.stem}: {data['model']}, {data['model_bytes'] / 1e9:.2f} GB, inside a memory cgroup")
    rows, groups, rounds = [], [], {}
    for row in data["rows"]:
        rounds[row["share"]] = rounds.get(row["share"], 0) + 1
        ours, theirs = row["spillway"], row["llama"]
        rows.append(
            [
                f"{row['share']} %",
                f"{ours['steady_s']:.2f}",
                f"{ours['bound_s']:.2f}",
                f"{ours['over_bound']:.2f}",
                f"{theirs['steady_s']:.2f}",
                f"{100 * ours['drive_busy']:.0f} %",
                f"{ours['peak_resident'] / 2**20:.0f} MiB",
            ]
        )
        groups.append(
            (
                f"{row['share']} %\nround {rounds[row['share']]}",
                {"Spillway": ours["steady_s"], "llama.cpp (mmap)": theirs["steady_s"]},
                ours["bound_s"],
            )
        )
    report.plot(
        path.stem,
        svg_plot.bars(
            f"Decode of {data['model']} with less memory than the model",
            "memory cgroup as a share of the file",
            "seconds a token",
            groups,
            ["Spillway", "llama.cpp (mmap)"],
            "bound at the drive's speed",
        ),
    )
    report.add(
        common.table(
            [
                "cgroup",
                "Spillway s/token",
                "bound",
                "times the bound",
                "llama.cpp s/token",
                "drive busy",
                "resident peak",
            ],
            rows,
        )
    )

#!/usr/bin/env python3
"""perf/quality_plot.py on a table made up here: well-formed SVG with every policy in it, the nearer to the full cache the lower.

    quality_plot_test.py SOURCE
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

source = pathlib.Path(sys.argv[1])
sys.dont_write_bytecode = True


def policy(flags, kl, moved):
    cause = {"weights": 5e8, "kv_fetch": moved}
    return {"policy": flags, "kl": kl, "windows": [{}, {}], "bytes_per_step": {"host_to_device": cause, "disk_read": {"kv_fetch": 0}}}


made_up = {
    "model": "Made <Up>",
    "text": "a text",
    "window": 4096,
    "steps": 256,
    "policies": [
        policy("", 0, 5e7),
        policy("--kv-select oracle", 0.01, 4e6),
        policy("--kv-select rehearsal", 0.012, 5e5),
        policy("--kv-select rehearsal --select-budget 5%", 0.04, 2e5),
        policy("--kv-type kivi4", 0.002, 1.4e7),
    ],
}

with tempfile.TemporaryDirectory() as folder:
    result, out = pathlib.Path(folder, "q.json"), pathlib.Path(folder, "q.svg")
    result.write_text(json.dumps(made_up))
    plot = [sys.executable, source / "perf/quality_plot.py", result, out]
    subprocess.run(plot, check=True)
    tree = xml.parse(out).getroot()
    name = "{http://www.w3.org/2000/svg}"
    circles = {c.find(name + "title").text.split(":")[0]: c for c in tree.iter(name + "circle")}
    assert set(circles) == {p["policy"] for p in made_up["policies"][1:]}, circles
    heights = [float(circles[p["policy"]].get("cy")) for p in made_up["policies"][1:]]
    assert heights[3] > heights[0] > heights[1] > heights[2], heights  # down the page
    assert len(list(tree.iter(name + "polyline"))) == 3, "budgets of one policy are joined"
    assert "Made <Up>" in "".join(tree.itertext())
    made_up["policies"] = made_up["policies"][:1]
    result.write_text(json.dumps(made_up))
    assert subprocess.run(plot, capture_output=True, check=False).returncode != 0

#!/usr/bin/env python3
"""Renders chat templates, among them llama.cpp's models/templates and those of GGUFs, with the `render_template` tool and with jinja2, and
compares the texts: compare_templates.py RENDER_TEMPLATE FILE-OR-FOLDER... Needs `pip install jinja2`, and gguf for *.gguf."""
import json
import pathlib
import subprocess
import sys
import tempfile

from template_cases import cases, rendered


def sources(arguments):
    for argument in map(pathlib.Path, arguments):
        for path in sorted(argument.glob("*.jinja")) if argument.is_dir() else [argument]:
            if path.suffix == ".gguf":
                import gguf
                field = gguf.GGUFReader(path).fields.get("tokenizer.chat_template")
                if field:
                    yield path.name, field.contents()
            else:
                yield path.name, path.read_text()


def main():
    tool, all_cases = sys.argv[1], list(cases())
    wrong = refused = total = 0
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        (work / "cases.json").write_text(json.dumps(all_cases))
        for label, source in sources(sys.argv[2:]):
            (work / "template").write_text(source)
            run = subprocess.run([tool, work / "template", work / "cases.json"], capture_output=True, text=True)
            if run.returncode != 0:
                print(f"{label}: not understood: {run.stderr.strip()[-300:]}")
                refused += 1
                continue
            bad, errors = [], 0
            for variables, ours in zip(all_cases, json.loads(run.stdout)):
                theirs = rendered(source, variables)
                errors += theirs is None
                if ours.get("text") != theirs:
                    bad.append((variables, ours, theirs))
            total += len(all_cases)
            wrong += len(bad)
            print(f"{label}: {len(all_cases) - len(bad)} of {len(all_cases)} the same ({errors} raise)")
            for variables, ours, theirs in bad[:1]:
                print("   ", json.dumps(variables)[:200], "\n    ours  ", json.dumps(ours)[-600:], "\n    theirs", json.dumps(theirs)[-600:])
    print(f"{total} renderings, {wrong} differ, {refused} templates not understood")
    return 1 if wrong or refused else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What jinja2 renders from the templates in tests/loader/data/templates for every case of template_cases.py: golden.json beside them, with
null where it raises; and from each of the small ones that are the keys of expressions.json there, without variables: its values. Needs `pip install jinja2` (written with 3.1.6). Usage: make_template_golden.py tests/loader/data/templates"""
import json
import pathlib
import sys

from template_cases import cases, rendered


def main():
    folder = pathlib.Path(sys.argv[1])
    all_cases = list(cases())
    golden = {"cases": all_cases}
    for path in sorted(folder.glob("*.jinja")):
        golden[path.name] = [rendered(path.read_text(), variables) for variables in all_cases]
    (folder / "golden.json").write_text("{\n" + ",\n".join(f"{json.dumps(k)}: [\n" + ",\n".join(map(json.dumps, v)) + "]" for k, v in golden.items()) + "\n}\n")
    expressions = folder / "expressions.json"
    values = {source: rendered(source, {}) for source in json.loads(expressions.read_text())}
    expressions.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in values.items()) + "\n}\n")


if __name__ == "__main__":
    main()

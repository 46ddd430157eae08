"""Tests of one program, each suite a part of the stage."""

import json
import re

import places
import record as records


def tests_of(program, context, wanted):
    """{suite: [test, ...]} of the tests whose full name matches."""
    suites, suite = {}, ""
    text = places.output(["env", *(f"{k}={v}" for k, v in context.environment.items()), program, "--gtest_list_tests"])
    for line in text.splitlines():
        name = line.split("#")[0].rstrip()
        if line.startswith("  "):
            full = suite + name.strip()
            if re.search(wanted, full):
                suites.setdefault(suite.rstrip("."), []).append(full)
        elif name.endswith("."):
            suite = name
    return suites


def reader(path, ran_on=""):
    """Reads gtest's own JSON: counts, and the first words of each failure. `ran_on`: what each test must say that it ran on."""

    def read(_out, _err):
        report = json.loads(path.read_text())
        failures, skipped, ran = {}, 0, 0
        for suite in report.get("testsuites", []):
            for test in suite.get("testsuite", []):
                if test.get("result") == "SKIPPED":
                    skipped += 1
                    continue
                ran += 1
                if ran_on and test.get("ran_on") != ran_on:
                    raise records.Unread(f"{test['name']} did not run on a {ran_on}")
                if test.get("failures"):
                    failures[f"{suite['name']}.{test['name']}"] = test["failures"][0].get("failure", "")[:500]
        return {"tests": ran, "skipped": skipped, "failures": failures}

    return read


def run_suites(record, context, program_name, wanted, *, limit=240, env=None, under=(), refused=(), prefix=""):
    """Runs each suite with a test that matches `wanted`, under a tool where one is given; says how many there were."""
    program = context.places.program(program_name)
    if program is None:
        record.note(prefix + program_name, "missing", f"{program_name} is not in this build")
        return 0
    suites = tests_of(program, context, wanted)
    for suite, tests in suites.items():
        report = context.places.work / f"{program_name}-{re.sub(r'[^A-Za-z0-9]+', '-', suite)}.json"
        report.unlink(missing_ok=True)
        record.run(
            f"{prefix}{suite}",
            [*under, program, f"--gtest_filter={':'.join(tests)}", "--gtest_brief=1", f"--gtest_output=json:{report}"],
            limit=limit,
            read=reader(report, "GPU" if "SPILLWAY_TEST_GPU" in (env or {}) else ""),
            env=env,
            refused=refused,
        )
    return len(suites)

"""Tests of one program, each suite a part of the stage."""

import json
import os
import re
import subprocess

import record as records


class NotListed(Exception):
    """A program does not name its tests."""


def tests_of(program, context, wanted):
    """{suite: [test, ...]} of the tests whose full name matches; NotListed where the program does not tell."""
    suites, suite = {}, ""
    try:
        listed = subprocess.run(
            [program, "--gtest_list_tests"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
            env={**os.environ, **context.environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotListed(str(error)) from error
    if listed.returncode != 0:
        raise NotListed(f"--gtest_list_tests ends with {listed.returncode}: {listed.stderr.strip()[-400:]}")
    for line in listed.stdout.splitlines():
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
    """Runs each suite with a test that matches `wanted`, under a tool where one is given. A build without the program lacks a
    part; a program that lists no such test has failed."""
    program = context.places.program(program_name)
    if program is None:
        record.note(prefix + program_name, "missing", f"{program_name} is not in this build")
        return
    try:
        suites = tests_of(program, context, wanted)
    except NotListed as error:
        record.note(prefix + program_name, "failed", str(error))
        return
    if not suites:
        record.note(prefix + program_name, "failed", f"it has no test of the name {wanted}")
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

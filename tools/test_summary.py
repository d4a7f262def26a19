#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a `bazel test` run did, from its build event file.

usage: test_summary.py [--require-lab] EVENTS.json

Prints every skipped case with its reason, then one line
"N passed, N failed, N skipped" over GoogleTest cases (a test program without
GoogleTest output counts as one case). Leaves with 1 if a test failed; with
--require-lab also if lab tests were skipped, or inside the lab a case for
another reason than that it does not apply there (lab/skips.py). That is decided
here and not in the tests' environment, so that results cached by one kind of
run serve the other.
"""

import json
import os
import re
import sys
import urllib.parse
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "lab"))
# pylint: disable=wrong-import-position
from skips import unexcused


def read_log(uri):
    parsed = urllib.parse.urlparse(uri)
    with open(urllib.request.url2pathname(parsed.path), errors="replace") as file:
        return file.read()


class Count:
    """What the tests added so far came to."""

    def __init__(self):
        self.passed = self.failed = self.skipped = self.skipped_in_lab = 0
        self.reasons = []

    def add(self, label, status, text):
        """One run of a test program: its status and its log."""
        ok = status == "PASSED"
        cases = len(re.findall(r"^\[       OK \] ", text, re.M))
        bad = len(set(re.findall(r"^\[  FAILED  \] (\S+)[ ,].*ms\)$", text, re.M)))
        skips = re.findall(r"^\[  SKIPPED \] (\S+) \(\d+ ms\)$", text, re.M)
        in_lab = re.findall(r"^lab: SKIPPED .*$", text, re.M)
        self.passed += cases
        if ok and not cases and not skips and not in_lab:
            self.passed += 1
        self.failed += bad if bad else (0 if ok else 1)
        self.skipped += len(skips) + len(in_lab)
        self.skipped_in_lab += len(in_lab)
        if re.search(r"^lab: === ", text, re.M):
            self.skipped_in_lab += len(unexcused(text))
        self.reasons += [f"skipped: {label}: {line}" for line in in_lab]
        self.reasons += [f"skipped: {label} {name}: {reason(text, name)}" for name in skips]
        if not ok:
            self.reasons.append(f"failed: {label}: {status}")

    def exit_code(self, require_lab):
        return 1 if self.failed or (require_lab and self.skipped_in_lab) else 0


def reason(text, name):
    match = re.search(
        r"^\[ RUN      \] " + re.escape(name) + r"\n(.*?)^\[  SKIPPED \] ", text, re.M | re.S
    )
    lines = [l.strip() for l in (match.group(1) if match else "").splitlines()]
    lines = [l for l in lines if l and not re.match(r".*: Skipped$", l)]
    return lines[0] if lines else "no reason given"


def main(arguments):
    require_lab = "--require-lab" in arguments
    paths = [argument for argument in arguments if argument != "--require-lab"]
    count = Count()
    with open(paths[0]) as events:
        for line in events:
            event = json.loads(line)
            result = event.get("testResult")
            if not result:
                continue
            outputs = result.get("testActionOutput", [])
            log = next((o.get("uri") for o in outputs if o["name"] == "test.log"), None)
            label = event["id"]["testResult"]["label"]
            count.add(label, result.get("status"), read_log(log) if log else "")
    for line in count.reasons:
        print(line)
    print(f"{count.passed} passed, {count.failed} failed, {count.skipped} skipped", flush=True)
    if require_lab and count.skipped_in_lab:
        print("the lab is required (--require-lab), but lab tests were skipped", flush=True)
    return count.exit_code(require_lab)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

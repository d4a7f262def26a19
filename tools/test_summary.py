#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a `bazel test` run did, from its build event file.

usage: test_summary.py [--require-lab] EVENTS.json

Prints every skipped case with its reason, then one line
"N passed, N failed, N skipped" over GoogleTest cases (a test program without
GoogleTest output counts as one case). Leaves with 1 if a test failed, or none is
reported; with --require-lab also if lab tests were skipped, or inside the lab a case for
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
from skips import skipped, unexcused


def read_log(uri):
    parsed = urllib.parse.urlparse(uri)
    with open(urllib.request.url2pathname(parsed.path), errors="replace") as file:
        return file.read()


class Count:
    """What the tests added so far came to."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.reasons = []
        self.skipped_in_lab = []

    def add(self, label, status, text):
        """One run of a test program: its status and its log."""
        ok = status == "PASSED"
        cases = len(re.findall(r"^\[       OK \] ", text, re.M))
        bad = len(set(re.findall(r"^\[  FAILED  \] (\S+)[ ,].*ms\)$", text, re.M)))
        skips = skipped(text)
        in_lab = re.findall(r"^lab: SKIPPED .*$", text, re.M)
        self.passed += cases
        if ok and not cases and not skips and not in_lab:
            self.passed += 1
        self.failed += bad if bad else (0 if ok else 1)
        self.skipped += len(skips) + len(in_lab)
        self.skipped_in_lab += [f"{label}: {line}" for line in in_lab]
        if re.search(r"^lab: === ", text, re.M):
            self.skipped_in_lab += [f"{label} {case}" for case in unexcused(text)]
        self.reasons += [f"skipped: {label}: {line}" for line in in_lab]
        self.reasons += [f"skipped: {label} {name}: {reason}" for name, reason in skips]
        if not ok:
            self.reasons.append(f"failed: {label}: {status}")

    def exit_code(self, require_lab):
        nothing = not (self.passed or self.failed or self.skipped)
        return 1 if nothing or self.failed or (require_lab and self.skipped_in_lab) else 0


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
        for case in count.skipped_in_lab:
            print(f"the lab is required (--require-lab), but skipped {case}", flush=True)
    return count.exit_code(require_lab)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

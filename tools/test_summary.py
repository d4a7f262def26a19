#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts what a `bazel test` run did, from its build event file.

Prints every skipped case with its reason, then one line
"N passed, N failed, N skipped" over GoogleTest cases (a test program without
GoogleTest output counts as one case).
"""

import json
import re
import sys
import urllib.parse
import urllib.request


def read_log(uri):
    parsed = urllib.parse.urlparse(uri)
    with open(urllib.request.url2pathname(parsed.path), errors="replace") as file:
        return file.read()


def main(path):
    passed = failed = skipped = 0
    reasons = []
    with open(path) as events:
        for line in events:
            event = json.loads(line)
            result = event.get("testResult")
            if not result:
                continue
            label = event["id"]["testResult"]["label"]
            ok = result.get("status") == "PASSED"
            log = next(
                (o.get("uri") for o in result.get("testActionOutput", []) if o["name"] == "test.log"),
                None,
            )
            text = read_log(log) if log else ""
            cases = len(re.findall(r"^\[       OK \] ", text, re.M))
            bad = len(set(re.findall(r"^\[  FAILED  \] (\S+)[ ,].*ms\)$", text, re.M)))
            skips = re.findall(r"^\[  SKIPPED \] (\S+) \(\d+ ms\)$", text, re.M)
            passed += cases if ok or cases else 0
            if ok and not cases and not skips and "lab: SKIPPED" not in text:
                passed += 1
            failed += bad if bad else (0 if ok else 1)
            skipped += len(skips)
            for line in re.findall(r"^lab: SKIPPED .*$", text, re.M):
                skipped += 1
                reasons.append(f"skipped: {label}: {line}")
            for name in skips:
                reasons.append(f"skipped: {label} {name}: {reason(text, name)}")
            if not ok:
                reasons.append(f"failed: {label}: {result.get('status')}")
    for line in reasons:
        print(line)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


def reason(text, name):
    match = re.search(
        r"^\[ RUN      \] " + re.escape(name) + r"\n(.*?)^\[  SKIPPED \] ", text, re.M | re.S
    )
    lines = [l.strip() for l in (match.group(1) if match else "").splitlines()]
    lines = [l for l in lines if l and not re.match(r".*: Skipped$", l)]
    return lines[0] if lines else "no reason given"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

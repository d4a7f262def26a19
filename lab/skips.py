# SPDX-License-Identifier: Apache-2.0
"""Skipped GoogleTest cases in a program's output, and which of them are excused in the lab.

The lab has all that a test can ask for. What it may skip there is a case that does not apply to
its parameter or to the kernel it runs on; its reason begins with "not applicable: ".
"""

import re

EXCUSE = "not applicable: "


def skipped(text):
    """[(case, reason)] of the cases that were skipped."""
    found = []
    for match in re.finditer(r"^\[ RUN      \] (\S+)\n((?:(?!\[ RUN ).*\n)*?)"
                             r"\[  SKIPPED \] \1 ", text, re.M):
        lines = [line.strip() for line in match.group(2).splitlines()]
        reasons = [line for line in lines if line and not re.match(r".*: Skipped$", line)]
        found.append((match.group(1), reasons[0] if reasons else "no reason given"))
    return found


def unexcused(text):
    """"case: reason" for each case whose reason is no excuse."""
    return [f"{case}: {reason}" for case, reason in skipped(text)
            if not reason.startswith(EXCUSE)]

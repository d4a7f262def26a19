#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the tests take every branch that guards against a hostile guest.

Builds the tests of the packages and files below for clang's source coverage, runs them
(fuzz targets over their committed corpora), and looks at the packages' own
code: an outcome of a condition that no test has and a case that no test reaches
are printed, and fail the check unless tools/coverage_allow.txt says why that may
be so. How an error is handed on by
RETURN_IF_ERROR and ASSIGN_OR_RETURN is not counted: what is decided is decided
where the error is made.

Options: --list prints all that is not covered, in the form of the allow-list;
--keep leaves the build and the profiles of the last run as they are;
`--bazel "bazel --output_base=..."` says how to call bazel.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

PACKAGES = ["devices/virtio"]
# The other files that a guest's accesses to a virtio device go through, and those
# that decide which of the guest's memory a device may touch.
FILES = [
    "devices/pci_bar.h",
    "devices/pci_config_space.cc",
    "devices/pci_config_space.h",
    "devices/pci_root.cc",
    "devices/pci_root.h",
    "devices/rate_limiter.cc",
    "memory/lease_counters.h",
    "memory/lease_env.cc",
    "memory/lease_env.h",
    "memory/lease_gauge.h",
    "memory/lease_table.h",
    "memory/shared_view.cc",
    "memory/shared_view.h",
    "vmm/balloon_memory.cc",
    "vmm/balloon_memory.h",
]
EXTRA_TESTS = [
    "//devices:pci_bar_test",
    "//devices:pci_config_space_test",
    "//devices:pci_root_test",
    "//devices:rate_limiter_test",
    "//memory:lease_counters_test",
    "//memory:lease_gauge_test",
    "//memory:lease_table_test",
    "//memory:shared_view_test",
    "//vmm:balloon_memory_test",
]
FLAGS = [
    "--config=clang",
    "--platform_suffix=-cov",
    "--copt=-fprofile-instr-generate",
    "--copt=-fcoverage-mapping",
    "--linkopt=-fprofile-instr-generate",
]
ALLOWED = "tools/coverage_allow.txt"
# Code that only tests use.
TEST_CODE = re.compile(r"_(test|fuzz)\.cc$|_fake|fake_|/hostile_driver\.h$|"
                       r"/disk_test_file\.|/disk_engine_contract\.h$|"
                       r"/disk_op_recorder\.h$|/eventually\.h$|_fixture\.h$")
TIMEOUT = 300  # seconds for one test; it needs one


def capture(command, **kwargs):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE,
                          text=True, **kwargs).stdout


def tool(name):
    for candidate in (name, name + "-14"):
        for folder in os.environ["PATH"].split(":"):
            if os.access(os.path.join(folder, candidate), os.X_OK):
                return candidate
    sys.exit(f"coverage: {name} is missing; it is part of clang's package llvm")


# ------------------------------------------------------------------- running


def find_tests(bazel):
    """The tests as (label, arguments): a fuzz target's are its corpus."""
    query = " + ".join(f"kind(cc_test, //{p}:*)" for p in PACKAGES)
    query += " + " + " + ".join(EXTRA_TESTS)
    corpora = capture(bazel + ["query", "--noshow_progress", "--output=xml",
                               f"let t = {query} in $t + (deps($t, 2) intersect "
                               "kind(filegroup, //devices/...))"],
                      stderr=subprocess.DEVNULL)
    groups, tests = {}, []
    for rule in ElementTree.fromstring(corpora).iter("rule"):
        lists = {at.get("name"): [label.get("value") for label in at]
                 for at in rule.iter("list")}
        if rule.get("class") == "filegroup":
            groups[rule.get("name")] = lists.get("srcs", [])
        else:
            data = lists.get("data", [])
            fuzz = any(tag.get("value") == "fuzz" for at in rule.iter("list")
                       if at.get("name") == "tags" for tag in at)
            tests.append((rule.get("name"), data if fuzz else []))
    def files(label):
        if label in groups:
            return [path for inner in groups[label] for path in files(inner)]
        return [label[2:].replace(":", "/")]
    return [(name, [p for label in data for p in files(label)])
            for name, data in tests]


def run_test(root, bin_dir, out, label, args):
    """Runs one test where bazel would; returns what to say about a failure."""
    path = label[2:].replace(":", "/")
    name = path.replace("/", "_")
    runfiles = bin_dir / (path + ".runfiles") / "cloister"
    scratch = out / (name + ".tmp")
    scratch.mkdir(exist_ok=True)
    env = dict(os.environ, LLVM_PROFILE_FILE=str(out / (name + "-%p.profraw")),
               TEST_TMPDIR=str(scratch), TMPDIR=str(scratch))
    with open(out / (name + ".log"), "w") as log:
        try:
            done = subprocess.run(
                [str(bin_dir / path)] + [str(root / a) for a in args],
                cwd=runfiles if runfiles.is_dir() else root, env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return f"{label} did not end within {TIMEOUT} s"
    if done.returncode == 0:
        return None
    return f"{label} failed ({done.returncode}); its output is {log.name}"


def run_all(root, bin_dir, out, tests, jobs):
    for old in out.glob("*.profraw"):
        old.unlink()
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(
            lambda test: run_test(root, bin_dir, out, *test), tests))
    return [result for result in results if result]


def export_one(bin_dir, out, label):
    """What one program has run. Apart, for programs differ in what they make
    of the same header."""
    path = label[2:].replace(":", "/")
    name = path.replace("/", "_")
    merged = str(out / (name + ".profdata"))
    profiles = sorted(str(p) for p in out.glob(name + "-[0-9]*.profraw"))
    subprocess.run([tool("llvm-profdata"), "merge", "-sparse", "-o", merged] +
                   profiles, check=True)
    exported = capture([tool("llvm-cov"), "export", "-format=text",
                        "-instr-profile", merged, str(bin_dir / path)],
                       stderr=subprocess.DEVNULL)
    return json.loads(exported)["data"][0]


# ------------------------------------------------------------------- reading


class Source:
    """A file's text, to name conditions by what they say."""

    def __init__(self, root, path):
        self.lines = (root / path).read_text().split("\n")

    def text(self, line, column, end_line, end_column):
        if line == end_line:
            got = self.lines[line - 1][column - 1:end_column - 1]
        else:
            parts = [self.lines[line - 1][column - 1:]]
            parts += self.lines[line:end_line - 1]
            parts.append(self.lines[end_line - 1][:end_column - 1])
            got = " ".join(parts)
        return re.sub(r"\s+", " ", got).strip()

    def before(self, line, column, *_):
        return self.lines[line - 1][:column - 1]


def tree_path(name):
    """A file's name in the tree: what bazel compiles lies elsewhere."""
    name = re.sub(r"^.*/_virtual_includes/[^/]+/cloister/", "", name)
    return re.sub(r"^(/proc/self/cwd|.*/execroot/[^/]+)/", "", name)


def is_wanted(path):
    if TEST_CODE.search(path):
        return False
    return path in FILES or any(path.startswith(p + "/") for p in PACKAGES)


def entered(segments, line, column):
    """How often the code at a place ran: the segment that it lies in."""
    count = 0
    for at_line, at_column, hits, has_count, *_ in segments:
        if (at_line, at_column) > (line, column):
            break
        if has_count:
            count = hits
    return count


def gather(data, branches, segments):
    """Adds a program's counts, by path, to those of the others."""
    for file in data["files"]:
        path = tree_path(file["filename"])
        if not is_wanted(path):
            continue
        segments.setdefault(path, []).append(file["segments"])
        places = branches.setdefault(path, {})
        for branch in file["branches"]:
            counts = places.setdefault(tuple(branch[:4]), [0, 0])
            counts[0] += branch[4]
            counts[1] += branch[5]


def find_uncovered(root, branches, segments):
    """Yields (path, line, what, outcome) for all that is not covered."""
    for path, places in sorted(branches.items()):
        source = Source(root, path)
        for place, (yes, no) in sorted(places.items()):
            what = source.text(*place)
            # A case label has one outcome: to be reached.
            if re.match(r"(case\b|default$)", what):
                if yes == 0:
                    yield path, place[0], what, "reached"
                continue
            # An enumeration's switch without a default: no such value.
            if source.before(*place).endswith("switch ("):
                continue
            # The compiler knows some conditions: they have no counts.
            if yes == no == 0 and any(entered(one, *place[:2])
                                      for one in segments[path]):
                continue
            if yes == 0:
                yield path, place[0], what, "true"
            if no == 0:
                yield path, place[0], what, "false"


# ----------------------------------------------------------------- allow-list


def read_allowed(list_path):
    """Entries (path, what, outcome) -> [(line number, may it be covered)]."""
    allowed, problems = {}, []
    reason = None
    for number, line in enumerate(list_path.read_text().split("\n"), 1):
        if not line.strip():
            reason = None
        elif line.startswith("#"):
            reason = line[1:].strip()
        else:
            match = re.fullmatch(r"(\S+) \| (.*) \| (\w+)(\??)", line)
            if not match or not reason:
                problems.append(f"{ALLOWED}:{number}: wants `# reason` above and "
                                "`file | condition | outcome`")
                continue
            path, what, outcome, race = match.groups()
            allowed.setdefault((path, what, outcome), []).append(
                (number, bool(race)))
    return allowed, problems


def judge(found, allowed):
    """What is not allowed, and the entries that nothing needs any more."""
    # Those that must be needed are used up first: from the end.
    left = {key: sorted(entries, key=lambda entry: not entry[1])
            for key, entries in allowed.items()}
    bad = []
    for path, line, what, outcome in found:
        entries = left.get((path, what, outcome))
        if entries:
            entries.pop()
        else:
            bad.append((path, line, what, outcome))
    unused = [(number, key) for key, entries in left.items()
              for number, race in entries if not race]
    return bad, sorted(unused)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bazel", default="bazel")
    parser.add_argument("--flags", default="", help="for bazel build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    root = pathlib.Path(__file__).resolve().parent.parent
    os.chdir(root)
    bazel = shlex.split(options.bazel)
    flags = FLAGS + shlex.split(options.flags)
    tests = find_tests(bazel)
    if not tests:
        sys.exit("coverage: bazel query finds no tests")
    if not options.keep:
        built = subprocess.run(bazel + ["build"] + flags + [t for t, _ in tests])
        if built.returncode:
            sys.exit("coverage: the tests do not build")
    out = pathlib.Path(capture(bazel + ["info", "output_base"],
                               stderr=subprocess.DEVNULL).strip(), "coverage")
    out.mkdir(exist_ok=True)
    bin_dir = pathlib.Path(capture(bazel + ["info"] + flags + ["bazel-bin"],
                                   stderr=subprocess.DEVNULL).strip())
    if not options.keep:
        failures = run_all(root, bin_dir, out, tests, options.jobs)
        if failures:
            sys.exit("coverage: " + "\ncoverage: ".join(failures))
    branches, segments = {}, {}
    for label, _ in tests:
        gather(export_one(bin_dir, out, label), branches, segments)
    found = list(find_uncovered(root, branches, segments))
    if options.list:
        for path, line, what, outcome in found:
            print(f"{path} | {what} | {outcome}")
        return
    allowed, problems = read_allowed(root / ALLOWED)
    bad, unused = judge(found, allowed)
    problems += [f"{path}:{line}: never {outcome}: {what}"
                 for path, line, what, outcome in bad]
    problems += [f"{ALLOWED}:{number}: is covered now: take the line out: "
                 f"{' | '.join(key)}" for number, key in unused]
    for problem in problems:
        print(problem)
    conditions = sum(len(places) for places in branches.values())
    print(f"coverage: {len(tests)} tests, {conditions} conditions in "
          f"{len(branches)} files, {len(found)} outcomes not covered, "
          f"{len(found) - len(bad)} of them allowed: "
          + ("FAILED" if problems else "OK"))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()

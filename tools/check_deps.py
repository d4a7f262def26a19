#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the dependency rules of docs/architecture.md over the build graph.

1. Folders depend only on the folders the table allows; a package below a
   folder (devices/virtio) belongs to that folder. Some targets may do less.
2. No path leads from devices to kvm, from kvm to devices, nor from what has to
   link without KVM to kvm.
3. KVM's UAPI is named under kvm/ only (tests/ and lab/ excepted).
4. Every `#include "absl/..."` is covered by a dependency declared by a target
   that has the file.
5. Every library has a test of its name beside it, or tools/untested_libraries.txt
   says why not; and every library with code is used by some test.

Reads `bazel query --output=xml`; prints one line per violation.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

LAYERS = {
    "base": set(),
    "memory": {"base"},
    "kvm": {"base", "memory:guest_address"},
    "vcpu": {"base", "memory", "kvm"},
    "devices": {"base", "memory"},
    "boot": {"base", "memory"},
    "confidential": {"base", "memory", "kvm", "boot"},
    "vmm": {"base", "memory", "kvm", "vcpu", "devices", "boot", "confidential"},
    # What the API shows and converts are types of memory/; the rest is in
    # vmm's interfaces, as for cli.
    "api": {
        "base",
        "memory",
        "vmm",
        "boot/shim:launch",
        "confidential:backend_kind",
        "confidential:measurement",
        "confidential:measurement_json",
        "devices:bus",
        "devices:rate_limiter",
        "devices:serial",
        "vcpu:exit_counters",
    },
    # vmm's own interfaces have types of these in them; nothing else of
    # their folders is for the program.
    "cli": {
        "base",
        "vmm",
        "api",
        "boot/shim:launch",
        "confidential:backend_kind",
        "confidential:measurement",
        "confidential:measurement_json",
        "devices:serial",
        "memory:conversion_broker",
        "memory:conversion_stats",
        "vcpu:kick_signal",
    },
}
# Targets that may do less than their folder.
TARGETS = {
    "//api:client": {"base"},
    "//api:json": {"base"},
}
# Packages that build on the rest of their folder, which must not know them.
ABOVE = {"//devices/virtio"}
# From, to: no path may exist.
NO_PATH = (
    ("//devices/...", "//kvm/..."),
    ("//kvm/...", "//devices/..."),
    ("//api:client", "//kvm/..."),
    ("//boot/...", "//kvm/..."),
    ("//confidential:measurement", "//kvm/..."),
    ("//memory/...", "//kvm/..."),
)
FREE = {"tests", "bench", "fuzz", "examples", "lab", "build", "tools"}
UAPI = re.compile(r"<linux/kvm\.h>|\bstruct kvm_[a-z_]+|\bKVM_[A-Z_0-9]+\b")
ABSL = re.compile(r'^\s*#\s*include\s+"(absl/[^"]+)\.h"', re.M)
# Headers whose target does not have the header's name.
ABSL_TARGET = {
    "absl/base/attributes": "absl/base:core_headers",
    "absl/base/macros": "absl/base:core_headers",
    "absl/base/optimization": "absl/base:core_headers",
    "absl/base/thread_annotations": "absl/base:core_headers",
    "absl/container/btree_map": "absl/container:btree",
    "absl/container/btree_set": "absl/container:btree",
    "absl/status/status": "absl/status:status",
    "absl/strings/cord": "absl/strings:cord",
    "absl/strings/str_format": "absl/strings:str_format",
}
# Interfaces, plain data and test support: nothing to test on their own.
UNTESTED = re.compile(r"^//(fuzz|tests|bench|examples|lab|build|third_party|tools)\b")


def query(expression):
    return subprocess.run(
        ["bazel", "query", "--output=xml", "--noshow_progress", expression],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def absl_target(header):
    if header in ABSL_TARGET:
        return ABSL_TARGET[header]
    folder = header.rsplit("/", 1)[0]
    if folder == "absl/strings":
        return "absl/strings:strings"
    return f"{folder}:{header.rsplit('/', 1)[1]}"


def shorten(label):
    """absl/status:status for every spelling of that label; //a:b for //a:b."""
    label = re.sub(r"^@abseil-cpp//", "", label)
    if ":" not in label:
        label += ":" + label.rsplit("/", 1)[-1]
    return label


def package(label):
    return label.split(":")[0]


def folder_of(label):
    return re.match(r"//([^/:]*)", label).group(1)


def load():
    rules = {}
    for rule in ElementTree.fromstring(query("//...")).iter("rule"):
        if not rule.get("class", "").startswith(("cc_", "_lab_group_test")):
            continue
        lists = {l.get("name"): [i.get("value") for i in l.iter("label")] for l in rule.iter("list")}
        flags = {b.get("name"): b.get("value") for b in rule.iter("boolean")}
        # A select()'s branches all count.
        rules[rule.get("name")] = {
            "class": rule.get("class"),
            "deps": lists.get("deps", []),
            "data": lists.get("data", []),
            "files": lists.get("srcs", []) + lists.get("hdrs", []) + lists.get("textual_hdrs", []),
            "testonly": flags.get("testonly") == "true" or rule.get("class").endswith("_test"),
            "srcs": lists.get("srcs", []),
        }
    return rules


def check_layers(rules):
    for name, rule in rules.items():
        source = folder_of(name)
        if source in FREE or rule["testonly"]:
            continue
        if source not in LAYERS:
            yield f"{name}: folder {source}/ is not in the dependency table"
            continue
        allowed = TARGETS.get(name, LAYERS[source])
        for dep in rule["deps"]:
            if not dep.startswith("//"):
                continue
            target = folder_of(dep)
            if target == "build" or target in allowed or dep[2:] in allowed:
                continue
            if target == source and not (package(dep) in ABOVE and package(name) not in ABOVE):
                continue
            yield f"{name} may not depend on {dep} (docs/architecture.md)"


def check_paths(rules):
    for start, end in NO_PATH:
        if not start.endswith("/...") and start not in rules:
            continue
        graph = f"kind('cc_library|cc_binary', {start})"
        path = subprocess.run(
            ["bazel", "query", "--noshow_progress", f"somepath({graph}, {end})"],
            check=True, capture_output=True, text=True,
        ).stdout.split()
        if path:
            yield f"a path leads from {start} to {end}: {' -> '.join(path)}"


def source_path(label):
    return label[2:].replace(":", "/").lstrip("/")


def check_sources(rules):
    for name, rule in rules.items():
        deps = {shorten(d) for d in rule["deps"]}
        for label in rule["files"]:
            if not label.startswith("//"):
                continue
            path = source_path(label)
            try:
                text = open(path).read()
            except (FileNotFoundError, IsADirectoryError):
                continue  # Generated.
            for header in ABSL.findall(text):
                if absl_target(header) not in deps:
                    yield f"{path} includes {header}.h but {name} lacks @abseil-cpp//{absl_target(header)}"
            if folder_of(name) not in ("kvm", "lab", "tests"):
                for line_number, line in enumerate(text.splitlines(), 1):
                    # Names in comments and in texts for people are fine.
                    if UAPI.search(re.sub(r'"[^"]*"', '""', line).split("//")[0]):
                        yield f"{path}:{line_number}: KVM's UAPI outside kvm/: {line.strip()}"


def check_tests(rules, exempt):
    """A library is tested by a test that depends on it, directly or through its own folder."""
    tested = set()
    for name, rule in rules.items():
        if rule["class"] != "cc_test" and not (rule["class"] == "cc_binary" and rule["testonly"]):
            continue
        queue = rule["deps"] + rule["data"]
        while queue:
            dep = queue.pop()
            if dep in tested or dep not in rules:
                continue
            tested.add(dep)
            queue += [d for d in rules[dep]["deps"] if package(d) == package(dep)]
    for name, rule in rules.items():
        if rule["class"] != "cc_library" or rule["testonly"] or UNTESTED.match(name):
            continue
        if name not in tested and name not in exempt and any(f.endswith(".cc") for f in rule["files"]):
            yield f"{name}: no test uses it"


def read_exemptions(path="tools/untested_libraries.txt"):
    """{label: why it needs no test of its own}; the file explains the forms."""
    exempt = {}
    for line in open(path):
        line = line.split("#")[0].strip()
        if line:
            label, reason = line.split(None, 1)
            exempt[label] = reason
    return exempt


def own_test(name, rules):
    own = f"{package(name)}:{name.split(':')[1]}_test.cc"
    return any(own in rule["files"] for rule in rules.values() if rule["testonly"])


def excuse_problem(name, reason, rules, exempt):
    """What is wrong with the reason why library `name` has no test; None if fine."""
    kind, _, rest = reason.partition(" ")
    if kind == "plain":
        sources = [f for f in rules[name]["files"] if f.endswith(".cc")]
        return f"has code: {' '.join(sources)}" if sources or not rest else None
    label = rest if kind in ("through", "program") else reason
    if label not in rules:
        return f"no target {label}"
    if kind == "through":
        if name not in rules[label]["deps"]:
            return f"{label} does not depend on it"
        covered = own_test(label, rules) or not exempt.get(label, "plain").startswith("plain")
        return None if covered else f"{label} has no test either"
    if not rules[label]["testonly"]:
        return f"{label} is not a test"
    if kind == "program":
        used = any(name in rules[d]["deps"] for d in rules[label]["data"] if d in rules)
        return None if used else f"{label} runs no program that depends on it"
    return None if name in rules[label]["deps"] else f"{label} does not depend on it"


def check_own_tests(rules, exempt):
    """//a:b has a/b_test.cc in a test, or a reason not to that holds."""
    for name, rule in rules.items():
        if rule["class"] != "cc_library" or rule["testonly"] or UNTESTED.match(name):
            continue
        reason = exempt.get(name)
        if own_test(name, rules):
            if reason:
                yield f"tools/untested_libraries.txt: {name} has a test by now"
        elif not reason:
            yield f"{name}: no {source_path(name)}_test.cc beside it, nor a reason in tools/untested_libraries.txt"
        elif problem := excuse_problem(name, reason, rules, exempt):
            yield f"tools/untested_libraries.txt: {name}: {problem}"
    for name in exempt.keys() - rules.keys():
        yield f"tools/untested_libraries.txt: no library {name}"


def check_repositories(offline, module, folders):
    """The two modes, build/repositories.bzl and MODULE.bazel, name the same repositories."""
    wrappers = re.search(r"_WRAPPERS = \[(.*?)\]", offline, re.S).group(1)
    declared = set(re.findall(r'"([^"]+)"', wrappers))
    named = set(re.findall(r'(?:bazel_dep|local_repository)\(\s*name = "([^"]+)"', module))
    for name in sorted(declared ^ folders):
        yield f"{name}: is either in third_party/debian or in build/repositories.bzl"
    # Bazel brings the one itself with internet access, and the other without.
    for name in sorted((declared - {"remote_coverage_tools"}) ^ (named - {"platforms"})):
        yield f"{name}: is either in MODULE.bazel or in build/repositories.bzl"


def read_repositories():
    folders = {name for name in os.listdir("third_party/debian")
               if os.path.isdir(os.path.join("third_party/debian", name))}
    with open("build/repositories.bzl") as offline, open("MODULE.bazel") as module:
        return offline.read(), module.read(), folders


def main():
    rules = load()
    problems = list(check_layers(rules)) + list(check_paths(rules))
    exempt = read_exemptions()
    problems += list(check_sources(rules)) + list(check_tests(rules, exempt))
    problems += list(check_own_tests(rules, exempt))
    problems += list(check_repositories(*read_repositories()))
    for problem in problems:
        print(problem)
    print(f"dependency rules: {len(rules)} targets, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the dependency rules of docs/architecture.md over the build graph.

1. Folders depend only on the folders the table allows.
2. No path leads from devices to kvm, nor from kvm to devices.
3. KVM's UAPI is named under kvm/ only (tests/ and lab/ excepted).
4. Every `#include "absl/..."` is covered by a dependency declared by a target
   that has the file.
5. Every library is used by a test, directly or through its own folder.

Reads `bazel query --output=xml`; prints one line per violation.
"""

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
    "api": {"base", "memory", "vmm"},
    "cli": {"base", "memory", "boot", "vcpu", "devices", "confidential", "vmm", "api"},
}
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
UNTESTED = re.compile(r"^//(fuzz|tests|bench|examples|lab|build|third_party)\b")


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
        if not rule.get("class", "").startswith("cc_"):
            continue
        lists = {l.get("name"): [i.get("value") for i in l.iter("label")] for l in rule.iter("list")}
        flags = {b.get("name"): b.get("value") for b in rule.iter("boolean")}
        # A select()'s branches all count.
        rules[rule.get("name")] = {
            "class": rule.get("class"),
            "deps": lists.get("deps", []),
            "data": lists.get("data", []),
            "files": lists.get("srcs", []) + lists.get("hdrs", []) + lists.get("textual_hdrs", []),
            "testonly": flags.get("testonly") == "true" or rule.get("class") == "cc_test",
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
        allowed = LAYERS[source]
        for dep in rule["deps"]:
            if not dep.startswith("//"):
                continue
            target = folder_of(dep)
            if target in (source, "build") or target in allowed or dep[2:] in allowed:
                continue
            yield f"{name} may not depend on {dep} (docs/architecture.md)"


def check_paths():
    for a, b in (("devices", "kvm"), ("kvm", "devices")):
        graph = f"kind('cc_library|cc_binary', //{a}/...)"
        path = subprocess.run(
            ["bazel", "query", "--noshow_progress", f"somepath({graph}, //{b}/...)"],
            check=True, capture_output=True, text=True,
        ).stdout.split()
        if path:
            yield f"a path leads from {a}/ to {b}/: {' -> '.join(path)}"


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


def check_tests(rules):
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
        if name not in tested and any(f.endswith(".cc") for f in rule["files"]):
            yield f"{name}: no test uses it"


def main():
    rules = load()
    problems = list(check_layers(rules)) + list(check_paths())
    problems += list(check_sources(rules)) + list(check_tests(rules))
    for problem in problems:
        print(problem)
    print(f"dependency rules: {len(rules)} targets, {len(problems)} violations")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs clang-tidy over the C++ files that changed, and remembers what was clean.

usage: clang_tidy.py [--all]

Changed is what differs from the upstream branch, or, where there is none, from
the commit before the last; of a header, the .cc file beside it is looked at.
--all looks at every file but the tests, which takes a quarter of an hour. A file is
looked at again when it, a header of this repository that it includes directly or
not, .clang-tidy or clang-tidy itself has changed. The records are in
$CLOISTER_CACHE/clang-tidy.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^#include "cloister/([^"]+)"', re.M)


def git(*arguments):
    """What git prints, as lines; None if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else None


def subjects(paths, root=ROOT):
    """The files to look at for these changed ones: library and program sources, sorted."""
    found = set()
    for path in paths:
        source = re.sub(r"\.h$", ".cc", path)
        if source.endswith(".cc") and not source.endswith("_test.cc") and (root / source).exists():
            found.add(source)
    return sorted(found)


def changed():
    """Paths that differ from where this work began."""
    base = git("merge-base", "HEAD", "@{upstream}") or git("rev-parse", "--verify", "HEAD~1")
    return git("diff", "--name-only", *(base or [])) if base else git("ls-files")


def closure(path, root=ROOT):
    """The file and every header of this repository that it includes, directly or not."""
    found, todo = set(), [path]
    while todo:
        one = todo.pop()
        if one in found or not (root / one).exists():
            continue
        found.add(one)
        todo += INCLUDE.findall((root / one).read_text(errors="replace"))
    return sorted(found)


def key(path, root, salt):
    """Changes when the outcome for `path` may change."""
    digest = hashlib.sha256(salt)
    for one in closure(path, root):
        digest.update(one.encode() + b"\0" + (root / one).read_bytes() + b"\0")
    return digest.hexdigest()


def tidy(path, include):
    """(path, whether it is clean, what clang-tidy says)."""
    done = subprocess.run(["clang-tidy", "--quiet", path, "--", "-std=c++20", f"-I{include}"],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          check=False)
    return path, done.returncode == 0, done.stdout


def main(arguments):
    if arguments not in ([], ["--all"]):
        print(__doc__.strip().split("\n\n")[1], file=sys.stderr)
        return 2
    paths = subjects(git("ls-files", "*.cc") if arguments else changed())
    cache = os.environ.get("CLOISTER_CACHE") or os.path.expanduser("~/.cache/cloister")
    records = pathlib.Path(cache) / "clang-tidy"
    records.mkdir(parents=True, exist_ok=True)
    version = subprocess.run(["clang-tidy", "--version"], stdout=subprocess.PIPE, check=True).stdout
    salt = version + (ROOT / ".clang-tidy").read_bytes()
    keys = {path: key(path, ROOT, salt) for path in paths}
    todo = [path for path in paths if not (records / keys[path]).exists()]
    bad = 0
    with tempfile.TemporaryDirectory() as include:
        os.symlink(ROOT, os.path.join(include, "cloister"))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for path, clean, said in pool.map(lambda one: tidy(one, include), todo):
                if clean:
                    (records / keys[path]).touch()
                else:
                    bad += 1
                    print(f"{path}:\n{said}", flush=True)
    print(f"clang-tidy: {len(paths)} files, {len(paths) - len(todo)} of them as they were, "
          f"{bad} with findings")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The checks of `./dev lint` must be able to fail: each gets what it forbids."""

import os
import pathlib
import tempfile
import unittest

import check_deps
import check_guest_memory
import clang_tidy
import test_summary


def library(deps=(), sources=(), testonly=False, kind="cc_library", data=()):
    return {
        "class": kind,
        "deps": list(deps),
        "data": list(data),
        "files": list(sources),
        "testonly": testonly,
    }


class Layers(unittest.TestCase):
    def problems(self, name, dep):
        return list(check_deps.check_layers({name: library([dep])}))

    def test_folders(self):
        self.assertEqual(self.problems("//vmm:builder", "//kvm:vm"), [])
        self.assertEqual(self.problems("//kvm:vm", "//memory:guest_address"), [])
        for name, dep in (
            ("//devices:bus", "//kvm:vm"),
            ("//devices/virtio:blk", "//kvm:vm"),
            ("//kvm:vm", "//memory:guest_memory"),
            ("//vcpu:runner", "//devices:bus"),
            ("//api:server", "//kvm:vm"),
            ("//cli:run_command", "//memory:guest_memory"),
            ("//new:thing", "//base:log"),
        ):
            self.assertEqual(len(self.problems(name, dep)), 1, name)

    def test_a_folder_does_not_use_what_builds_on_it(self):
        self.assertEqual(self.problems("//devices/virtio:blk", "//devices:bus"), [])
        self.assertEqual(self.problems("//devices/virtio:blk", "//devices/virtio:queue"), [])
        self.assertEqual(len(self.problems("//devices:bus", "//devices/virtio:queue")), 1)

    def test_targets_that_may_do_less(self):
        self.assertEqual(self.problems("//api:server", "//vmm:config"), [])
        self.assertEqual(len(self.problems("//api:client", "//vmm:config")), 1)


class Repositories(unittest.TestCase):
    OFFLINE = '_WRAPPERS = [\n    "zlib",\n    "remote_coverage_tools",\n]\n'
    FOLDERS = {"zlib", "remote_coverage_tools"}

    def test_both_modes_name_the_same(self):
        module = 'bazel_dep(name = "platforms", version = "1")\nbazel_dep(name = "zlib")\n'
        check = check_deps.check_repositories
        self.assertEqual(list(check(self.OFFLINE, module, self.FOLDERS)), [])
        more = module + 'local_repository(\n    name = "xz",\n)\n'
        self.assertEqual(len(list(check(self.OFFLINE, more, self.FOLDERS))), 1)
        self.assertEqual(len(list(check(self.OFFLINE, "", self.FOLDERS))), 1)
        self.assertEqual(len(list(check(self.OFFLINE, module, {*self.FOLDERS, "xz"}))), 1)


class OwnTests(unittest.TestCase):
    def problems(self, rules, exempt):
        return list(check_deps.check_own_tests(rules, exempt))

    def test_a_library_has_its_test(self):
        lib = {"//a:b": library(sources=["//a:b.cc"])}
        test = {"//a:b_test": library(["//a:b"], ["//a:b_test.cc"], True, "cc_test")}
        self.assertEqual(self.problems({**lib, **test}, {}), [])
        self.assertEqual(len(self.problems(lib, {})), 1)
        self.assertIn("by now", self.problems({**lib, **test}, {"//a:b": "plain x"})[0])
        self.assertIn("no library", self.problems({}, {"//a:gone": "plain x"})[0])

    def test_excuses_must_hold(self):
        rules = {
            "//a:b": library(sources=["//a:b.cc"]),
            "//a:data": library(sources=["//a:data.h"]),
            "//a:user": library(["//a:b"], ["//a:user.cc"]),
            "//a:user_test": library(["//a:user"], ["//a:user_test.cc"], True, "cc_test"),
            "//a:program": library(["//a:b"], kind="cc_binary"),
            "//a:run_test": library([], ["//a:run_test.cc"], True, "cc_test", ["//a:program"]),
        }
        good = {"//a:data": "plain constants", "//a:b": "through //a:user"}
        self.assertEqual(self.problems(rules, good), [])
        self.assertEqual(self.problems(rules, {**good, "//a:b": "program //a:run_test"}), [])
        for excuse in (
            "plain it is not",  # It has a .cc.
            "//a:user_test",  # Does not depend on it.
            "//a:nothing",
            "through //a:data",
            "program //a:user_test",
        ):
            self.assertEqual(len(self.problems(rules, {**good, "//a:b": excuse})), 1, excuse)


class ClangTidy(unittest.TestCase):
    def test_what_is_looked_at_and_when_again(self):
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name)
            (root / "a").mkdir()
            files = {
                "a/b.cc": '#include "cloister/a/b.h"\n',
                "a/b.h": '#include "cloister/a/c.h"\n',
                "a/c.h": "int c;\n",
                "a/b_test.cc": "",
            }
            for path, text in files.items():
                (root / path).write_text(text)
            self.assertEqual(clang_tidy.subjects([*files, "a/gone.cc", "x.py"], root), ["a/b.cc"])
            self.assertEqual(clang_tidy.closure("a/b.cc", root), ["a/b.cc", "a/b.h", "a/c.h"])
            before = clang_tidy.key("a/b.cc", root, b"1")
            self.assertEqual(clang_tidy.key("a/b.cc", root, b"1"), before)
            self.assertNotEqual(clang_tidy.key("a/b.cc", root, b"2"), before)
            (root / "a/c.h").write_text("int d;\n")
            self.assertNotEqual(clang_tidy.key("a/b.cc", root, b"1"), before)


class GuestMemory(unittest.TestCase):
    def problems(self, files, allowed=None, hatches=None):
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(root, path), "w") as file:
                    file.write(text)
            return check_guest_memory.check(root, allowed or {}, hatches or {})

    def test_words(self):
        for line in (
            "auto a = m.host_address().ForKvmSlot();",
            "memory::HostAddress a;",
            "auto* p = static_cast<char*>(v.iov_base);",
            "void* p = ::mmap(nullptr, n, PROT_READ, MAP_SHARED, fd, 0);",
            "memory.AppendIovecs(access, range, &iovecs);",
        ):
            self.assertTrue(self.problems({"devices/x.cc": line}), line)
            self.assertTrue(self.problems({"devices/virtio/x.h": line}), line)
            self.assertEqual(self.problems({"devices/x_test.cc": line}), [])
            self.assertEqual(self.problems({"memory/x.cc": line}), [])
            self.assertEqual(self.problems({"devices/x.cc": "// " + line}), [])

    def test_the_list_is_exact(self):
        line = {"kvm/x.cc": "auto a = ForKvmSlot();"}
        self.assertEqual(self.problems(line, {"kvm/x.cc": {"ForKvmSlot": "why"}}), [])
        self.assertEqual(len(self.problems(line, {"kvm/y.cc": {"ForKvmSlot": "why"}})), 2)

    def test_headers_of_memory(self):
        for line in (
            "  uint8_t* Pointer(GuestAddress a);",
            "  absl::StatusOr<uint8_t*> Pointer(GuestAddress a) const;",
            "  absl::Span<uint8_t> Bytes();",
            "  absl::StatusOr<absl::Span<const uint8_t>> Bytes();",
            "  T& At(GuestAddress a);",
            "  const T* At(GuestAddress a);",
        ):
            text = "class C {\n public:\n%s\n};\n" % line
            self.assertEqual(len(self.problems({"memory/c.h": text})), 1, line)
            hidden = "class C {\n public:\n  int x();\n private:\n%s\n};\n" % line
            self.assertEqual(self.problems({"memory/c.h": hidden}), [], line)


class Summary(unittest.TestCase):
    LOG = """[ RUN      ] A.B
x.cc:1: Skipped
no /dev/kvm here
[  SKIPPED ] A.B (0 ms)
[ RUN      ] A.C
[       OK ] A.C (0 ms)
"""

    def test_counts_and_reasons(self):
        count = test_summary.Count()
        count.add("//a:b", "PASSED", self.LOG)
        self.assertEqual((count.passed, count.failed, count.skipped), (1, 0, 1))
        self.assertIn("no /dev/kvm here", count.reasons[0])
        self.assertEqual(count.exit_code(require_lab=False), 0)
        self.assertEqual(count.exit_code(require_lab=True), 0)

    def test_skipped_lab_tests_fail_if_the_lab_is_required(self):
        count = test_summary.Count()
        count.add("//a:lab", "PASSED", "lab: SKIPPED boot_test: no kernel\n")
        self.assertEqual((count.passed, count.skipped), (0, 1))
        self.assertEqual(count.exit_code(require_lab=False), 0)
        self.assertEqual(count.exit_code(require_lab=True), 1)

    def test_a_case_skipped_in_the_lab_has_to_be_excused(self):
        for reason, status in (("not applicable: here", 0), ("this host lacks it", 1)):
            count = test_summary.Count()
            text = self.LOG.replace("no /dev/kvm here", reason)
            count.add("//a:lab", "PASSED", "lab: === //a:lab_main [patched]\n" + text)
            self.assertEqual(count.exit_code(require_lab=False), 0)
            self.assertEqual(count.exit_code(require_lab=True), status, reason)

    def test_failures(self):
        count = test_summary.Count()
        count.add("//a:b", "FAILED", "[  FAILED  ] A.B (1 ms)\n[  FAILED  ] A.B\n")
        count.add("//a:c", "TIMEOUT", "")
        self.assertEqual(count.failed, 2)
        self.assertEqual(count.exit_code(require_lab=False), 1)


if __name__ == "__main__":
    unittest.main()

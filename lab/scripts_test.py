# SPDX-License-Identifier: Apache-2.0
"""Tests of the lab's scripts that need no lab."""

import importlib.machinery
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

LAB = pathlib.Path("lab").absolute()
sys.dont_write_bytecode = True
sys.path.insert(0, str(LAB))
# pylint: disable=wrong-import-position
import common
import newc
import patch_kvm
import skips
import tsc


def load(name):
    """One of the lab's programs as a module."""
    loader = importlib.machinery.SourceFileLoader(f"lab_{name}", str(LAB / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


kernel = load("kernel")
guest_image = load("guest_image")
test_group = load("test_group")
lab = load("lab")


class Options(unittest.TestCase):
    def test_forms(self):
        self.assertEqual(kernel.read_options("# c\nKVM\n-VT\nNR_CPUS=64\n\n"),
                         {"KVM": "y", "VT": "n", "NR_CPUS": "64"})

    def test_lost_options_are_named(self):
        wanted = {"KVM": "y", "VT": "n", "NR_CPUS": "64", "GONE": "y"}
        config = "CONFIG_KVM=y\nCONFIG_VT=y\nCONFIG_NR_CPUS=64\n# CONFIG_GONE is not set\n"
        lost = kernel.lost_options(wanted, config)
        self.assertEqual(lost, ["VT=n (is y)", "GONE=y (is n)"])

    def test_every_option_of_ours_is_well_formed(self):
        for name, value in kernel.read_options((LAB / "kernel.options").read_text()).items():
            self.assertRegex(name, r"^[A-Z0-9_]+$")
            self.assertRegex(value, r"^([yn]|\d+)$")


class Prune(unittest.TestCase):
    def test_keeps_the_used_and_the_one_before(self):
        with tempfile.TemporaryDirectory() as name:
            cache = pathlib.Path(name)
            others = ["kernel-objects", "kernel-source", "lab-initramfs-0000000000000000"]
            kernels = [f"kernel-{index:016x}" for index in range(4)]
            for index, folder in enumerate(kernels + others):
                (cache / folder).mkdir()
                (cache / folder / "file").write_text("x")
                os.utime(cache / folder, (1000 + index, 1000 + index))
            # The oldest is the one in use now; the newest of the rest stays.
            kernel.prune(cache, cache / kernels[0])
            self.assertEqual(sorted(path.name for path in cache.iterdir()),
                             sorted([kernels[0], kernels[3]] + others))
            # It counts as used from now on.
            kernel.prune(cache, cache / kernels[3])
            self.assertTrue((cache / kernels[0]).exists())
            kernel.prune(cache, cache / kernels[0])
            self.assertTrue((cache / kernels[3]).exists())


class Key(unittest.TestCase):
    def test_parts_do_not_run_together(self):
        self.assertNotEqual(common.sha256_key([b"ab", b"c"]), common.sha256_key([b"a", b"bc"]))

    def test_follows_the_resolved_source(self):
        with tempfile.TemporaryDirectory() as name:
            cache = pathlib.Path(name)
            pinned = kernel.kernel_key(cache)
            (cache / "kernel-source").write_text(
                " ".join(("linux-source-9.9", "9.9.1-1") + kernel.PINNED))
            self.assertNotEqual(kernel.kernel_key(cache), pinned)
            self.assertEqual(kernel.source_version(cache), ("linux-source-9.9", "9.9.1-1"))
            # A record of a fallback for an older pin no longer counts.
            (cache / "kernel-source").write_text("linux-source-9.9 9.9.1-1 linux-source-1.0 1.0-1")
            self.assertEqual(kernel.kernel_key(cache), pinned)


class FakeApt:
    def __init__(self, offered):
        self._offered = offered

    def versions(self, package):
        return self._offered.get(package, [])

    def names(self, prefix):
        return [name for name in self._offered if name.startswith(prefix)]


class Resolve(unittest.TestCase):
    def test_takes_the_pinned_version(self):
        package, version = kernel.PINNED
        apt = FakeApt({package: ["99", version], "linux-source-9.9": ["1"]})
        self.assertEqual(kernel.resolve(apt), kernel.PINNED)

    def test_else_the_newest_series(self):
        apt = FakeApt({"linux-source-7.10": ["7.10.1-1"], "linux-source-7.9": ["7.9.9-1"],
                       "linux-source-6.12": ["6.12.1-1"]})
        self.assertEqual(kernel.resolve(apt), ("linux-source-7.10", "7.10.1-1"))

    def test_else_bookworms_own(self):
        apt = FakeApt({"linux-source-6.1": ["6.1.1-1"], "linux-source-6.12": ["6.12.1-1"]})
        self.assertEqual(kernel.resolve(apt), ("linux-source-6.12", "6.12.1-1"))

    def test_else_an_error(self):
        with self.assertRaises(common.LabError):
            kernel.resolve(FakeApt({"linux-source-6.1": ["6.1.1-1"]}))


# The least that the patch's places look like.
TREE = {
    "include/linux/kvm_host.h":
        "static inline bool kvm_slot_has_gmem(const struct kvm_memory_slot *slot)\n"
        "{\n\treturn 0;\n}\n"
        "static inline bool kvm_memslot_is_gmem_only(const struct kvm_memory_slot *slot);\n"
        "int kvm_gmem_get_pfn(struct kvm *kvm, struct page **page, int *max_order);\n",
    "virt/kvm/kvm_main.c":
        "static int __kvm_read_guest_page(struct x *slot)\n{\n}\n"
        "int kvm_read_guest_page(struct kvm *kvm, gfn_t gfn)\n{\n"
        "\tstruct kvm_memory_slot *slot = a(kvm, gfn);\n\n\treturn 0;\n}\n"
        "int kvm_vcpu_read_guest_page(struct kvm_vcpu *vcpu, gfn_t gfn)\n{\n"
        "\tstruct kvm_memory_slot *slot = b(vcpu, gfn);\n\n\treturn 0;\n}\n"
        "static int __kvm_write_guest_page(struct kvm *kvm)\n{\n\tint r;\n\tunsigned long addr;\n\n"
        "\tif (WARN_ON_ONCE(offset + len > PAGE_SIZE))\n\t\treturn -EFAULT;\n\n\treturn 0;\n}\n",
    "arch/x86/kvm/mmu/paging_tmpl.h":
        "\t\thost_addr = gfn_to_hva_memslot_prot(slot, gpa_to_gfn(real_gpa),\n"
        "\t\t\t&walker->pte_writable[walker->level - 1]);\n"
        "\t\twalker->ptep_user[walker->level - 1] = ptep_user;\n\n",
}


class Patch(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.tree = pathlib.Path(self._folder.name)
        for path, text in TREE.items():
            (self.tree / path).parent.mkdir(parents=True)
            (self.tree / path).write_text(text)

    def texts(self):
        return {path: (self.tree / path).read_text() for path in TREE}

    def test_revert_is_exact_and_apply_repeats(self):
        patch_kvm.apply(self.tree)
        once = self.texts()
        self.assertNotEqual(once, TREE)
        patch_kvm.apply(self.tree)
        self.assertEqual(self.texts(), once)
        patch_kvm.revert(self.tree)
        self.assertEqual(self.texts(), TREE)

    def test_every_addition_is_in_its_place(self):
        patch_kvm.apply(self.tree)
        added = sum(text.count(patch_kvm.BEGIN) for text in self.texts().values())
        self.assertEqual(added, len(patch_kvm.ADDITIONS))
        main = self.texts()["virt/kvm/kvm_main.c"]
        self.assertLess(main.index("int lab_private_access("),
                        main.index("static int __kvm_read_guest_page("))

    def test_speaks_the_words_of_the_version(self):
        patch_kvm.apply(self.tree)
        main = self.texts()["virt/kvm/kvm_main.c"]
        self.assertIn("kvm_slot_has_gmem(slot)", main)
        self.assertIn("!kvm_memslot_is_gmem_only(slot) && ", main)
        self.assertIn("&pfn, &page, NULL", main)
        (self.tree / "include/linux/kvm_host.h").write_text(
            "static inline bool kvm_slot_can_be_private(const struct kvm_memory_slot *slot)\n"
            "{\n\treturn 0;\n}\n"
            "int kvm_gmem_get_pfn(struct kvm *kvm, kvm_pfn_t *pfn, int *max_order);\n")
        patch_kvm.apply(self.tree)
        main = self.texts()["virt/kvm/kvm_main.c"]
        self.assertIn("kvm_slot_can_be_private(slot)", main)
        self.assertNotIn("kvm_memslot_is_gmem_only", main)
        self.assertIn("&pfn, NULL", main)

    def test_missing_place_fails_and_changes_nothing(self):
        path = self.tree / "virt/kvm/kvm_main.c"
        path.write_text(path.read_text().replace("int kvm_vcpu_read_guest_page", "int other"))
        before = self.texts()
        with self.assertRaisesRegex(patch_kvm.PatchError, "has 0 matches"):
            patch_kvm.apply(self.tree)
        self.assertEqual(self.texts(), before)

    def test_ambiguous_place_fails(self):
        path = self.tree / "arch/x86/kvm/mmu/paging_tmpl.h"
        path.write_text(path.read_text() * 2)
        with self.assertRaisesRegex(patch_kvm.PatchError, "has 2 matches"):
            patch_kvm.apply(self.tree)


class Newc(unittest.TestCase):
    def archive(self):
        archive = newc.Archive()
        archive.file("a/b/file", b"12345", 0o755)
        archive.symlink("a/link", "b/file")
        archive.character_device("a/null", 1, 3)
        return archive.finish()

    def test_same_content_same_bytes(self):
        self.assertEqual(self.archive(), self.archive())

    def test_cpio_reads_it(self):
        listed = subprocess.run(["cpio", "-it", "--quiet"], input=self.archive(),
                                stdout=subprocess.PIPE, check=True).stdout.split()
        self.assertEqual(listed, [b"a", b"a/b", b"a/b/file", b"a/link", b"a/null"])
        content = subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "a/b/file"],
                                 input=self.archive(), stdout=subprocess.PIPE, check=True).stdout
        self.assertEqual(content, b"12345")

    def test_no_name_twice(self):
        archive = newc.Archive()
        archive.file("x", b"")
        with self.assertRaises(ValueError):
            archive.file("x", b"")


class Modules(unittest.TestCase):
    DEP = ("kernel/d/virtio_blk.ko: kernel/d/virtio_ring.ko kernel/d/virtio.ko\n"
           "kernel/d/virtio_ring.ko: kernel/d/virtio.ko\n"
           "kernel/d/virtio.ko:\n"
           "kernel/d/virtio-rng.ko.xz: kernel/d/virtio.ko\n")

    def test_dependencies_come_first_and_once(self):
        order = guest_image.module_order(self.DEP, "", ["virtio_blk", "virtio_rng"])
        self.assertEqual(order, ["kernel/d/virtio.ko", "kernel/d/virtio_ring.ko",
                                 "kernel/d/virtio_blk.ko", "kernel/d/virtio-rng.ko.xz"])

    def test_built_in_modules_are_left_out(self):
        order = guest_image.module_order(self.DEP, "kernel/fs/ext4.ko\nkernel/d/virtio.ko\n",
                                         ["ext4", "virtio_ring"])
        self.assertEqual(order, ["kernel/d/virtio_ring.ko"])

    def test_unknown_module_is_an_error(self):
        with self.assertRaisesRegex(common.LabError, "no module nosuch"):
            guest_image.module_order(self.DEP, "", ["nosuch"])


class GuestMark(unittest.TestCase):
    def test_is_a_small_static_program(self):
        with tempfile.TemporaryDirectory() as name:
            os.environ["CLOISTER_CACHE"] = name
            self.addCleanup(os.environ.pop, "CLOISTER_CACHE")
            mark = guest_image.build_mark()
        self.assertTrue(mark.startswith(b"\x7fELF"))
        self.assertLess(len(mark), 4096)
        self.assertNotIn(b"ld-linux", mark)


class Availability(unittest.TestCase):
    def setUp(self):
        saved = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(saved)))
        os.environ["CLOISTER_CACHE"] = "/nonexistent"

    def test_no_key_no_lab(self):
        os.environ.pop("CLOISTER_LAB_KEY", None)
        self.assertIn("CLOISTER_LAB_KEY", test_group.why_no_lab())
        os.environ["CLOISTER_LAB_KEY"] = "absent"
        self.assertIn("CLOISTER_LAB_KEY", test_group.why_no_lab())

    def test_a_key_means_a_lab(self):
        os.environ["CLOISTER_LAB_KEY"] = "0123"
        self.assertIsNone(test_group.why_no_lab())

    def test_a_key_of_other_files_fails(self):
        with tempfile.TemporaryDirectory() as name:
            os.environ["CLOISTER_CACHE"] = name
            os.environ["CLOISTER_LAB_KEY"] = "0123"
            with self.assertRaisesRegex(common.LabError, "CLOISTER_LAB_KEY is 0123"):
                test_group.check_key()


LISTED = """Running main() from gtest_main.cc
Plain.
  One
Kinds/Param.
  Two/off  # GetParam() = "off"
  Two/on  # GetParam() = "on"
"""


class Parts(unittest.TestCase):
    """A program whose list of cases, for each filter, is in a file beside it."""

    def split(self, filters, lists):
        with tempfile.TemporaryDirectory() as name:
            for number, (given, listed) in enumerate(lists.items()):
                (pathlib.Path(name) / str(number)).write_text(listed)
            branches = "".join(f"*--gtest_filter={given}\\ *) cat {name}/{number} ;;\n"
                               for number, given in enumerate(lists) if given)
            program = pathlib.Path(name) / "program"
            program.write_text(f'#!/bin/sh\ncase "$*--" in\n{branches}*) cat {name}/0 ;;\nesac\n')
            program.chmod(0o755)
            job = {"name": "p", "argv": [str(program)], "env": {}}
            return [one["argv"][1:] for one in test_group.split(job, filters)]

    def test_cases(self):
        self.assertEqual(test_group.read_cases(LISTED),
                         ["Plain.One", "Kinds/Param.Two/off", "Kinds/Param.Two/on"])

    def test_each_case_is_a_program(self):
        self.assertEqual(self.split(["each"], {"": LISTED}),
                         [["--gtest_filter=Plain.One"], ["--gtest_filter=Kinds/Param.Two/off"],
                          ["--gtest_filter=Kinds/Param.Two/on"]])

    def test_filters_name_every_case_once(self):
        on = "Kinds/Param.\n  Two/on\n"
        rest = "Plain.\n  One\nKinds/Param.\n  Two/off\n"
        self.assertEqual(self.split(["on", "rest"], {"": LISTED, "on": on, "rest": rest}),
                         [["--gtest_filter=on"], ["--gtest_filter=rest"]])
        for filters in (["on"], ["on", "rest", "on"]):
            with self.assertRaisesRegex(common.LabError, "do not name each case once"):
                self.split(filters, {"": LISTED, "on": on, "rest": rest})


class Skips(unittest.TestCase):
    LOG = """[ RUN      ] A.Fine
[       OK ] A.Fine (0 ms)
[ RUN      ] A.NotHere
a_test.cc:7: Skipped
not applicable: another kernel

[  SKIPPED ] A.NotHere (0 ms)
[ RUN      ] A.Missing
a_test.cc:9: Skipped
this host lacks it

[  SKIPPED ] A.Missing (0 ms)
[ RUN      ] A.Mute
[  SKIPPED ] A.Mute (0 ms)
"""

    def test_only_what_does_not_apply_is_excused(self):
        self.assertEqual(skips.unexcused(self.LOG),
                         ["A.Missing: this host lacks it", "A.Mute: no reason given"])


class CommandLine(unittest.TestCase):
    def fails(self, *argv):
        with self.assertRaises(common.LabError) as caught:
            lab.read_jobs(lab.parse(list(argv)))
        self.assertEqual(caught.exception.code, 120)

    def test_bad_usage(self):
        self.fails()
        self.fails("--kernel", "other", "--", "true")
        self.fails("--interactive", "--jobs", "x")
        self.fails("--share-out", "/nonexistent", "--", "true")
        self.fails("--jobs", "/nonexistent")

    def test_program_arguments_are_left_alone(self):
        job, = lab.read_jobs(lab.parse(["--timeout", "5", "--", "prog", "--timeout", "x"]))
        self.assertEqual(job.argv, ["prog", "--timeout", "x"])
        self.assertEqual(job.timeout, 5)

    def test_environment_is_chosen(self):
        os.environ["LAB_TEST_SECRET"] = "s"
        self.addCleanup(os.environ.pop, "LAB_TEST_SECRET")
        job, = lab.read_jobs(lab.parse(["--", "prog"]))
        self.assertNotIn("LAB_TEST_SECRET", job.env)
        job, = lab.read_jobs(lab.parse(["--env", "LAB_TEST_SECRET", "--env", "A=b", "--", "prog"]))
        self.assertEqual(job.env["LAB_TEST_SECRET"], "s")
        self.assertEqual(job.env["A"], "b")


class Clock(unittest.TestCase):
    def test_measures_the_same_twice(self):
        first, second = tsc.frequency_khz(0.05), tsc.frequency_khz(0.05)
        self.assertGreater(first, 500_000)
        self.assertLess(abs(first - second) / first, 0.001)


if __name__ == "__main__":
    unittest.main()

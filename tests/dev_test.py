# SPDX-License-Identifier: Apache-2.0
"""What ./dev installs, and when it asks for nothing: a copy of it among fake commands.

The fakes write down how they are called. What the real commands would find on this machine's disk
(headers) is there: the build of this test needs it.
"""

import os
import pathlib
import re
import shutil
import stat
import subprocess
import tempfile
import unittest

DEV = pathlib.Path("dev").absolute()
# What the script itself uses; everything else is a fake, or missing.
REAL = ("bash", "cat", "cmp", "cp", "cut", "dirname", "env", "find", "getconf", "head", "mkdir",
        "readlink", "rm", "sha256sum", "touch", "uname")
QUIET = ("bazel", "bison", "clang", "flex", "g++", "iasl", "ld", "npm", "python3")
# Each asks a package manager or the network.
ASKING = ("apt", "apt-cache", "apt-get", "curl", "dpkg", "dpkg-query", "wget")

APT_GET = r"""
echo "$* [$DEBIAN_FRONTEND]" >>"$LOG/apt-get"
case $1 in
  update) exit "${UPDATE_STATUS:-0}" ;;
  install)
    [ "${INSTALL_STATUS:-0}" = 0 ] || exit "$INSTALL_STATUS"
    for word; do
      case $word in
        acpica-tools) cp "$BIN/bazel" "$BIN/iasl" ;;
        g++) cp "$BIN/bazel" "$BIN/g++" ;;
      esac
    done ;;
esac
"""


class DevTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.bin, self.log = self.root / "bin", self.root / "log"
        for path in (self.bin, self.log, self.root / "lab", self.root / "tools"):
            path.mkdir()
        shutil.copy(DEV, self.root / "dev")
        for name in REAL:
            (self.bin / name).symlink_to(shutil.which(name))
        for name in QUIET + ASKING:
            self.fake(name)
        self.fake("apt-get", APT_GET)
        self.fake("id", 'echo "${FAKE_UID:-0}"')
        self.script(self.root / "tools/lint.sh", 'echo "$*" >>"$LOG/lint.sh"')

    @staticmethod
    def script(path, text):
        path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def fake(self, name, text=None):
        self.script(self.bin / name, text or f'echo "$*" >>"$LOG/{name}"')

    def missing(self, *names):
        for name in names:
            (self.bin / name).unlink()

    def dev(self, *arguments, **variables):
        env = {"PATH": str(self.bin), "HOME": str(self.root), "LOG": str(self.log),
               "BIN": str(self.bin), "CLOISTER_CACHE": str(self.root / "cache"), **variables}
        return subprocess.run([str(self.root / "dev"), *arguments], env=env, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)

    def calls(self, name):
        path = self.log / name
        return path.read_text().splitlines() if path.exists() else []

    def asked(self):
        """What was asked of package managers and the network."""
        return {name: self.calls(name) for name in ASKING if self.calls(name)}

    def build(self, **variables):
        return self.dev("build", "//base:log", **variables)

    def test_asks_nobody_where_every_command_is_there(self):
        done = self.build()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.asked(), {})
        self.assertIn("build //base:log", self.calls("bazel")[-1])

    def test_a_command_counts_whatever_package_it_is_from(self):
        # No package manager knows of npm here.
        for name in ("dpkg", "dpkg-query", "apt-cache"):
            self.fake(name, f'echo "$*" >>"$LOG/{name}"; exit 1')
        self.fake("clang-format")
        self.fake("clang-tidy")
        done = self.dev("lint")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.asked(), {})
        self.assertEqual(len(self.calls("lint.sh")), 1)

    def test_installs_what_is_missing_once_and_removes_nothing(self):
        self.missing("iasl")
        done = self.build()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("dev: installing acpica-tools\n", done.stdout)
        update, install = self.calls("apt-get")
        self.assertTrue(update.startswith("update "), update)
        words = install.split()
        self.assertEqual(words[0], "install")
        self.assertIn("--no-remove", words)
        self.assertIn("-y", words)
        self.assertIn("[noninteractive]", words)
        self.assertEqual([word for word in words[1:] if word[0] not in "-["], ["acpica-tools"])
        done = self.build()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(len(self.calls("apt-get")), 2)
        self.assertEqual(set(self.asked()), {"apt-get"})

    def test_old_lists_are_good_enough(self):
        self.missing("iasl")
        done = self.build(UPDATE_STATUS="100")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("apt-get update failed", done.stdout)

    def test_names_what_cannot_be_installed_and_builds_nothing(self):
        self.missing("iasl", "g++")
        done = self.build(INSTALL_STATUS="100")
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stdout, r"dev: apt-get install g\+\+ acpica-tools failed\n$")
        self.assertEqual(self.calls("bazel"), [])

    def test_asks_sudo_where_it_is_not_root(self):
        self.missing("iasl")
        self.fake("sudo", 'echo "$1" >>"$LOG/sudo"; exec "$@"')
        done = self.build(FAKE_UID="1000")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.calls("sudo"), ["apt-get", "env"])

    def test_says_what_root_has_to_do(self):
        self.missing("iasl")
        done = self.build(FAKE_UID="1000")
        self.assertEqual(done.returncode, 1)
        self.assertIn("run as root: apt-get install acpica-tools", done.stdout)
        self.assertEqual(self.asked(), {})

    def test_says_what_to_install_where_there_is_no_apt(self):
        self.missing("iasl", "apt-get")
        done = self.build()
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing: acpica-tools (no apt-get here", done.stdout)

    def test_every_need_is_a_command_or_a_file_and_a_package(self):
        blocks = re.findall(r"^readonly \w+_NEEDS='\n(.*?)^'$", DEV.read_text(), re.M | re.S)
        lines = [line for block in blocks for line in block.splitlines()]
        self.assertGreater(len(lines), 30)
        for line in lines:
            self.assertRegex(line, r"^(/[^|\s]+|[a-z0-9+.-]+)\|[a-z0-9][a-z0-9+.-]+$")

    def test_wrong_usage(self):
        done = self.dev("no-such-command")
        self.assertEqual(done.returncode, 1)
        self.assertIn("unknown command 'no-such-command'", done.stdout)
        self.assertEqual(self.asked(), {})


if __name__ == "__main__":
    os.umask(0o022)
    unittest.main()

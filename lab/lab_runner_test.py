# SPDX-License-Identifier: Apache-2.0
"""Tests of lab/lab itself: statuses, output, limits, a host that dies, ways out.

With arguments it runs the classes or cases that they name; otherwise all, side by side.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest

LAB = pathlib.Path("lab").absolute()
CACHE = pathlib.Path(os.environ.get("CLOISTER_CACHE") or
                     os.path.expanduser("~/.cache/cloister")) / "lab"
PATIENCE = 120  # Seconds that any one step may take on a busy machine.


def command(*arguments):
    return [sys.executable, str(LAB / "lab"), *arguments]


def run(*arguments, **kwargs):
    """Runs lab/lab to its end."""
    kwargs.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=3 * PATIENCE, check=False, **kwargs)


def children(pid):
    """Process ids of the direct children of `pid`."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)


class Started:
    """A run in the lab that has reached its program, which then sleeps."""

    def __init__(self, *options, program="echo started; exec sleep 600"):
        self.process = subprocess.Popen(
            command(*options, "--", "sh", "-c", program), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        line = self.process.stdout.readline()
        if line != b"started\n":
            raise AssertionError((line, self.process.communicate()))
        self.qemu, = children(self.process.pid)

    def finish(self):
        """(status, standard error) once it has ended; QEMU must be gone by then."""
        _, err = self.process.communicate(timeout=PATIENCE)
        wait_for(lambda: not is_running(self.qemu), "the end of QEMU")
        return self.process.returncode, err.decode()


class Statuses(unittest.TestCase):
    def test_each_program_of_one_boot_has_its_own(self):
        jobs = [
            {"name": "seven", "argv": ["sh", "-c", "exit 7"]},
            {"name": "signal", "argv": ["sh", "-c", "kill -TERM $$"]},
            {"name": "absent", "argv": ["no-such-program"]},
            {"name": "folder", "argv": ["/etc"]},
            {"name": "cwd", "argv": ["true"], "cwd": "/no/such/folder"},
            {"name": "slow", "argv": ["sleep", "600"], "timeout": 2},
            {"name": "daemon", "argv": ["sh", "-c", "sleep 600 & true"]},
            {"name": "crash", "argv": ["sh", "-c", "echo c >/proc/sysrq-trigger"]},
            {"name": "after", "argv": ["sh", "-c", "echo still here"]},
        ]
        with tempfile.TemporaryDirectory() as folder:
            report = os.path.join(folder, "report")
            done = run("--jobs", "-", "--report", report, input=json.dumps(jobs).encode(),
                       stdin=None)
            results = {one["name"]: one for one in json.loads(pathlib.Path(report).read_text())}
        codes = {name: one["code"] for name, one in results.items()}
        self.assertEqual(codes, {"seven": 7, "signal": 143, "absent": 127, "folder": 126,
                                 "cwd": 127, "slow": 124, "daemon": 0, "crash": 122, "after": 0})
        self.assertEqual(results["daemon"]["left_behind"], 1)
        self.assertIn(b"daemon left 1 processes behind", done.stderr)
        self.assertIn("timed out after 2 s", results["slow"]["reason"])
        self.assertIn("the lab host died", results["crash"]["reason"])
        self.assertIn(b"sysrq triggered crash", done.stderr)
        self.assertIn(b"still here\n", done.stdout)
        self.assertIn(b"lab: 9 programs: 2 passed, 7 failed\n", done.stdout)
        self.assertEqual(done.returncode, 122)

    def test_two_runs_share_a_list(self):
        jobs = [{"name": str(number), "argv": ["sh", "-c", f"echo job {number}; exit {number}"]}
                for number in range(4)]
        with tempfile.TemporaryDirectory() as folder:
            claims = pathlib.Path(folder) / "claims"
            claims.mkdir()
            (claims / "1").touch()  # Somebody else has it.
            (pathlib.Path(folder) / "jobs").write_text(json.dumps(jobs))
            runs = [subprocess.Popen(command("--jobs", folder + "/jobs", "--claims", str(claims),
                                             "--report", f"{folder}/report{number}"),
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                    for number in range(2)]
            for process in runs:
                process.communicate(timeout=3 * PATIENCE)
            results = [one for number in range(2)
                       for one in json.loads(pathlib.Path(f"{folder}/report{number}").read_text())]
            self.assertEqual(sorted(os.listdir(claims)), ["0", "1", "2", "3"])
        self.assertEqual(sorted((one["name"], one["code"]) for one in results),
                         [("0", 0), ("2", 2), ("3", 3)])
        self.assertIn(1, [process.returncode for process in runs])

    def test_one_program(self):
        done = run("--", "sh", "-c", "exit 42")
        # Someone else may be using the lab: then it says so, and nothing more.
        err = done.stderr.replace(b"lab: waiting for another run in the lab\n", b"")
        self.assertEqual((done.returncode, done.stdout, err), (42, b"", b""))

    def test_wrong_usage(self):
        self.assertEqual(run().returncode, 120)
        self.assertEqual(run("--kernel", "other", "--", "true").returncode, 120)

    def test_no_kernel(self):
        with tempfile.TemporaryDirectory() as folder:
            done = run("--", "true", env={**os.environ, "CLOISTER_CACHE": folder})
        self.assertEqual(done.returncode, 121)
        self.assertIn(b"not built", done.stderr)


class Streams(unittest.TestCase):
    # A megabyte and more on each of the streams; lines, so that a loss is easy to place.
    DATA = "".join(f"{number:07d} {'x' * 24}\n" for number in range(40000)).encode()

    def test_big_output_arrives_whole(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.DATA)
            file.flush()
            done = run("--", "sh", "-c", f"cat {file.name} >&2 & cat {file.name}; wait")
        self.assertEqual(done.returncode, 0)
        self.assertEqual(len(done.stdout), len(self.DATA))
        self.assertEqual(done.stdout, self.DATA)
        self.assertEqual(done.stderr, self.DATA)

    def test_big_input_arrives_whole(self):
        done = run("--", "cat", input=self.DATA, stdin=None)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(done.stdout, self.DATA)

    def test_input_that_nobody_reads(self):
        self.assertEqual(run("--", "true", input=self.DATA, stdin=None).returncode, 0)

    def test_reader_that_leaves(self):
        process = subprocess.Popen(command("--", "yes"), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(process.stdout.read(4), b"y\ny\n")
        process.stdout.close()
        self.assertEqual(process.wait(PATIENCE), 128 + signal.SIGPIPE)


class Surroundings(unittest.TestCase):
    def test_folder_environment_and_shares(self):
        with tempfile.TemporaryDirectory() as shared, tempfile.TemporaryDirectory() as other:
            done = run("--share-out", shared, "--env", "LAB_TEST=a b", "--cwd", other, "--",
                       "sh", "-c", f'pwd; echo "$LAB_TEST"; echo kept >{shared}/kept; '
                       "echo lost >lost; cat lost")
            self.assertEqual((done.returncode, done.stdout.decode()),
                             (0, f"{other}\na b\nlost\n"), done.stderr)
            self.assertEqual(os.listdir(other), [])
            self.assertEqual((pathlib.Path(shared) / "kept").read_text(), "kept\n")

    def test_more_arguments_for_qemu(self):
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(3 << 20)
            done = run("--qemu-arg=-drive", f"--qemu-arg=file={file.name},format=raw,if=virtio",
                       "--", "cat", "/sys/block/vda/size")
        self.assertEqual(done.stdout, b"6144\n", done.stderr)


class WaysOut(unittest.TestCase):
    def test_qemu_killed(self):
        started = Started()
        os.kill(started.qemu, signal.SIGKILL)
        status, err = started.finish()
        self.assertEqual(status, 122)
        self.assertIn("the lab host died: QEMU was killed by signal 9", err)

    def test_host_hung(self):
        started = Started("--hang-timeout", "5")
        os.kill(started.qemu, signal.SIGSTOP)
        status, err = started.finish()
        self.assertEqual(status, 123)
        self.assertIn("the lab host hung: no sign of life for 5 s", err)

    def test_silent_host_is_nudged(self):
        started = Started("--verbose", program="echo started; exec sleep 8")
        os.kill(started.qemu, signal.SIGSTOP)
        seen = b""
        while b"nudging the lab host: no sign of life for 3 s" not in seen:
            line = started.process.stderr.readline()
            self.assertNotEqual(line, b"", seen)
            seen += line
        os.kill(started.qemu, signal.SIGCONT)
        status, _ = started.finish()
        self.assertEqual(status, 0)  # The nudge itself harms nothing.

    def test_host_that_does_not_come_up(self):
        done = run("--qemu-arg=-no-such-option", "--", "true")
        self.assertEqual(done.returncode, 121)
        self.assertIn(b"no-such-option", done.stderr)

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            started = Started()
            before = time.monotonic()
            started.process.send_signal(number)
            status, err = started.finish()
            self.assertEqual(status, 128 + number)
            self.assertIn(f"ended by {number.name}", err)
            self.assertLess(time.monotonic() - before, 30)

    def test_runner_killed(self):
        started = Started()
        started.process.kill()
        started.finish()

    def test_no_more_at_once_than_there_are_places(self):
        with contextlib.ExitStack() as places:
            held = []
            for number in range(len(os.sched_getaffinity(0))):
                held.append(places.enter_context(open(CACHE / f"lab.lock.{number}", "a")))
                fcntl.flock(held[-1], fcntl.LOCK_EX)
            process = subprocess.Popen(command("--", "echo", "late"), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(process.stderr.readline(),
                             b"lab: waiting for another run in the lab\n")
            self.assertEqual(children(process.pid), [])
            fcntl.flock(held[-1], fcntl.LOCK_UN)  # One place is enough.
            out, _ = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, out), (0, b"late\n"))


class Terminal(unittest.TestCase):
    """--interactive, on a pseudo-terminal of this test's."""

    def setUp(self):
        self.master, self.slave = pty.openpty()
        self.addCleanup(os.close, self.master)
        self.addCleanup(os.close, self.slave)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""

    def start(self, program):
        return subprocess.Popen(command("--interactive", "--", "sh", "-c", program),
                                stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                start_new_session=True)

    def expect(self, wanted):
        end = time.monotonic() + PATIENCE
        while wanted not in self.seen:
            self.assertLess(time.monotonic(), end, self.seen)
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 4096)

    def test_control_characters_reach_the_program(self):
        process = self.start("stty size; stty raw -echo; echo ready; "
                             "dd bs=1 count=4 2>/dev/null | od -An -tx1; exit 5")
        self.expect(b"33 101")
        self.expect(b"ready")
        self.assertNotEqual(termios.tcgetattr(self.slave), self.before)
        os.write(self.master, b"\x01\x03\x1ax")
        self.expect(b" 01 03 1a 78")
        self.assertEqual(process.wait(PATIENCE), 5)
        self.assertEqual(termios.tcgetattr(self.slave), self.before)

    def test_window_changes_reach_the_program(self):
        process = self.start('trap "stty size; exit 0" WINCH; echo ready; '
                             "while :; do sleep 0.1; done")
        self.expect(b"ready")
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
        process.send_signal(signal.SIGWINCH)
        self.expect(b"44 99")
        self.assertEqual(process.wait(PATIENCE), 0)

    def test_terminal_is_restored_on_signals(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.seen = b""
            process = self.start("echo ready; exec sleep 600")
            self.expect(b"ready")
            process.send_signal(number)
            self.assertEqual(process.wait(PATIENCE), 128 + number)
            self.assertEqual(termios.tcgetattr(self.slave), self.before)


class Leftovers(unittest.TestCase):
    """When nothing else runs in the lab."""

    def test_no_temporary_files(self):
        run("--", "true")
        names = [path.name for path in (CACHE / "tmp").iterdir()]
        self.assertEqual([name for name in names if name.startswith("init-")], [])


# Processes of this program, each with the classes that it runs: those of a row side by side, for a
# boot of the nested host keeps one processor busy.
ROWS = ((("Statuses", "Streams", "Terminal"), ("Surroundings", "WaysOut")), (("Leftovers",),))


def main():
    """Runs every class in its row; 0 if all passed."""
    named = [name for row in ROWS for names in row for name in names]
    classes = [name for name, value in globals().items()
               if isinstance(value, type) and issubclass(value, unittest.TestCase)]
    assert sorted(named) == sorted(classes), (named, classes)
    status = 0
    for row in ROWS:
        processes = [subprocess.Popen([sys.executable, __file__, *names], stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT, text=True) for names in row]
        # One is read while the others run into pipes that hold what they say.
        for process in processes:
            print(process.communicate()[0], flush=True)
            status |= process.returncode
    return status


if __name__ == "__main__":
    if len(sys.argv) > 1:
        unittest.main(verbosity=2)
    sys.exit(main())

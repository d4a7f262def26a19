# SPDX-License-Identifier: Apache-2.0
"""Power cuts: what a guest's fsync promised is there when the lights come on again.

The nested host has a disk: a file of this machine. On it lies an ext4 file system, in that the
guest's image, and in that another ext4, to which the guest appends records; after each one's fsync
it says so. SIGKILL of the emulator is the power cut: the nested host's memory, page cache included,
is gone. After it both journals are replayed, both file systems must be sound, and every record that
the guest spoke of must be there, those of earlier cuts included.

CLOISTER_SOAK=1 makes it 50 cuts instead of 5.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import unittest

LAB = pathlib.Path("lab").absolute()
CLOISTER = os.path.abspath("cli/cloister")
WORKER = os.path.abspath("tests/virtio_blk_guest")
IGNORE_FLUSH = os.path.abspath("tests/power_cut_ignore_flush")
CUTS, RECORDS = (50, 80) if os.environ.get("CLOISTER_SOAK") else (5, 40)  # RECORDS: at most
# What the guest's kernel can do without here: a second of each boot.
FASTER = "lsm= cryptomgr.notests"
PATIENCE = 600  # Seconds that one boot's script may take.


def children(pid):
    """Process ids of the direct children of `pid`."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def emulator_of(pid):
    """The process id of the QEMU that a run of lab/lab started, or None."""
    for child in children(pid):
        try:
            if b"qemu" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0]:
                return child
        except OSError:
            continue
    return None


def guest(flavour):
    """(kernel, initramfs) of a guest that has the worker as blk_guest."""
    done = subprocess.run(
        [sys.executable, str(LAB / "guest_image"), flavour, "--add",
         f"{WORKER}:bin/blk_guest"], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split("\n")[:2]


def make_disk(folder):
    """The nested host's disk, with the guest's image on it."""
    inner = folder / "tree/guest.img"
    inner.parent.mkdir()
    disk = folder / "disk.img"
    for image, size, tree in ((inner, "128M", None), (disk, "512M", inner.parent)):
        command = ["mke2fs", "-q", "-t", "ext4"] + (["-d", str(tree)] if tree else [])
        environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        subprocess.run(command + [str(image), size], check=True, env=environment,
                       stdout=subprocess.DEVNULL)
    return disk


# The outer file system's journal is replayed here.
MOUNT = """
PATH=$PATH:/usr/sbin:/sbin
mkdir -p /run/cut /run/image
mount -t ext4 {disk} /run/cut || { echo "CHECK {disk} cannot be mounted"; exit 1; }
"""
# The inner one's. Each finding is one line.
CHECK = """
if mount -o loop /run/cut/guest.img /run/image; then
  for log in /run/image/log-*; do
    [ -e "$log" ] && echo "CHECK ${log##*/} $({worker} count "$log")"
  done
  umount /run/image
else
  echo "CHECK guest.img cannot be mounted"
fi
e2fsck -fn /run/cut/guest.img >/run/e2fsck 2>&1 && echo "CHECK inner sound" || cat /run/e2fsck
umount /run/cut
e2fsck -fn {disk} >/run/e2fsck 2>&1 && echo "CHECK outer sound" || cat /run/e2fsck
"""


def mount(disk):
    """The script that mounts a disk of the nested host."""
    return MOUNT.replace("{disk}", disk)


def check(disk):
    """The script that says what a power cut left on a disk."""
    return mount(disk) + CHECK.replace("{disk}", disk).replace("{worker}", WORKER)


class Machine:
    """The nested host's hardware: disks that survive power cuts."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.guests = [guest(flavour) for flavour in ("tiny", "debian-6.1")]
        self.drives = []

    def add_disk(self):
        """One more disk; its name in the nested host."""
        folder = self.folder / str(len(self.drives))
        folder.mkdir()
        name = f"cut{len(self.drives)}"
        drive = f"file={make_disk(folder)},if=none,id={name},format=raw,cache=writeback"
        self.drives += [f"--qemu-arg={argument}" for argument in
                        ("-drive", drive, "-device", f"virtio-blk-pci,drive={name}")]
        return f"/dev/vd{'abc'[len(self.drives) // 4 - 1]}"

    def run_guest(self, number, prefix=()):
        """The script that runs a guest, which writes records to log-`number` until it is dark.

        With and without private memory in turn, and every other pair with Debian's kernel, which
        takes longer to boot.
        """
        log, backend = f"log-{number}", ("off", "sw-protected")[number % 2]
        kernel, initramfs = self.guests[number // 2 % 2]
        command = f"mount -t ext4 /dev/vda /mnt && blk_guest records /mnt/{log}"
        return "exec " + shlex.join([
            *prefix, CLOISTER, "run", "--kernel", kernel, "--initrd", initramfs,
            "--append", f"console=ttyS0 quiet panic=-1 {FASTER} cloister.run=\"{command}\"",
            "--memory", "256M", "--confidential", backend, "--disk", "/run/cut/guest.img"]) + "\n"

    def run(self, jobs):
        """Runs jobs (name, script, records), in one turn in the lab.

        A job with `records` ends in a power cut once the guest has synced so many; the lab then
        boots anew for the next one. Returns {name: (what was said, last record spoken of)}.
        """
        file = self.folder / "jobs.json"
        file.write_text(json.dumps([{"name": name, "argv": ["sh", "-c", script],
                                     "timeout": PATIENCE} for name, script, _ in jobs]))
        limits = {name: records for name, _, records in jobs}
        said = {name: ("", 0) for name in limits}
        command = [sys.executable, str(LAB / "lab"), *self.drives, "--jobs", str(file)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              text=True, errors="replace") as process:
            name, cut = None, False
            for line in process.stdout:
                started = re.match(r"lab: === (\S+)", line)
                if started:
                    name, cut = started[1], False
                if name is None:
                    continue
                found = re.match(r"record (\d+)\r?$", line)
                text, last = said[name]
                said[name] = (text + line, int(found[1]) if found else last)
                if limits[name] and said[name][1] >= limits[name] and not cut:
                    os.kill(emulator_of(process.pid), signal.SIGKILL)
                    cut = True  # what is on its way still counts
        return said


def losses(said, promised):
    """What is wrong, as a list of lines. `promised` is {log: last record spoken of}."""
    wrong = [line for line in said.splitlines() if "cannot be mounted" in line]
    for part in ("inner", "outer"):
        if f"CHECK {part} sound" not in said:
            wrong.append(f"e2fsck finds errors in the {part} file system")
    for log, last in promised.items():
        found = re.search(rf"^CHECK {log} records: (\d+)", said, re.MULTILINE)
        have = int(found[1]) if found else 0
        if have < last:
            wrong.append(f"{log}: {last} records were synced, {have} are there")
    return wrong


class Series:
    """Cuts of one machine, one after another, each followed by a look at what it left."""

    def __init__(self, numbers, seed):
        self.numbers = numbers
        self.choose = random.Random(seed)
        self.said = {}

    def jobs(self, machine):
        good = machine.add_disk()
        jobs = []
        for number in self.numbers:
            jobs.append((f"cut-{number}", check(good) + mount(good) + machine.run_guest(number),
                         self.choose.randint(1, RECORDS)))
        return jobs + [("look", check(good), 0)]

    def run(self):
        with tempfile.TemporaryDirectory(prefix="cloister-power-cut-") as folder:
            machine = Machine(folder)
            self.said = machine.run(self.jobs(machine))


class SeriesWithoutFlushes(Series):
    """The same, after two cuts of a machine whose monitor has no io_uring.

    At the first its thread pool's flushes do what they say, at the second they are ignored:
    nothing else is different.
    """

    def jobs(self, machine):
        bad = machine.add_disk()
        control = machine.run_guest(0, [IGNORE_FLUSH, "--keep-flushes"])
        ignoring = machine.run_guest(4, [IGNORE_FLUSH])
        return [("control", mount(bad) + control, 20),
                ("bad", check(bad) + mount(bad) + ignoring, 20),
                ("bad-look", check(bad), 0)] + super().jobs(machine)


class PowerCutTest(unittest.TestCase):
    """Real guests, with and without private memory; two machines side by side in the lab."""

    @classmethod
    def setUpClass(cls):
        seed = int(os.environ.get("TEST_RANDOM_SEED", "0")) or random.randrange(1 << 30)
        print(f"power cuts with seed {seed}", flush=True)
        half = (CUTS + 1) // 2
        cls.bad = SeriesWithoutFlushes(range(half, CUTS), seed + 1)
        cls.series = [Series(range(half), seed), cls.bad]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for done in [pool.submit(one.run) for one in cls.series]:
                done.result()

    def test_what_was_synced_survives(self):
        for series in self.series:
            promised = {}
            for number in series.numbers:
                said, last = series.said[f"cut-{number}"]
                self.assertGreater(last, 0, said)
                self.assertEqual(losses(said, promised), [], said)
                print(f"cut {number + 1} of {CUTS}: {last} records synced", flush=True)
                promised[f"log-{number}"] = last
            said, _ = series.said["look"]
            self.assertEqual(losses(said, promised), [], said)

    def test_without_io_uring_what_was_synced_survives(self):
        said, last = self.bad.said["control"]
        self.assertGreaterEqual(last, 20, said)
        found, _ = self.bad.said["bad"]
        self.assertEqual(losses(found, {"log-0": last}), [], found)
        print(f"without io_uring: {last} records synced, and there", flush=True)

    def test_a_monitor_that_ignores_flushes_is_found_out(self):
        said, last = self.bad.said["bad"]
        self.assertGreaterEqual(last, 20, said)
        self.assertIn("CHECK", self.bad.said["bad-look"][0])
        found = losses(self.bad.said["bad-look"][0], {"log-4": last})
        print("ignoring flushes: " + "; ".join(found), flush=True)
        self.assertNotEqual(found, [])


if __name__ == "__main__":
    unittest.main()

# SPDX-License-Identifier: Apache-2.0
"""Power cuts: what a guest's fsync promised is there when the lights come on again.

The nested host has a disk: a file of this machine. On it lies an ext4 file system, in that the
guest's image, and in that another ext4, to which the guest appends records; after each one's fsync
it says so. SIGKILL of the emulator is the power cut: the nested host's memory, page cache included,
is gone. After it both journals are replayed, both file systems must be sound, and every record that
the guest spoke of must be there, those of earlier cuts included.

CLOISTER_SOAK=1 makes it 50 cuts instead of 5.
"""

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
CUTS = 50 if os.environ.get("CLOISTER_SOAK") else 5
PATIENCE = 600  # Seconds that a script may take in the lab; waiting for the lab does not count.


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


def guest():
    """(kernel, initramfs) of a Debian guest that has the worker as blk_guest."""
    done = subprocess.run(
        [sys.executable, str(LAB / "guest_image"), "debian-6.1", "--add",
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


# After a cut: replays, counts, checks. Each finding is one line.
CHECK = """
mkdir -p /run/image
if mount -o loop /run/cut/guest.img /run/image; then
  for log in /run/image/log-*; do
    [ -e "$log" ] && echo "CHECK ${log##*/} $({worker} count "$log")"
  done
  umount /run/image
else
  echo "CHECK guest.img cannot be mounted"
fi
e2fsck -fn /run/cut/guest.img >/run/e2fsck 2>&1 && echo "CHECK inner sound" || cat /run/e2fsck
"""
CHECK_OUTER = """
umount /run/cut
e2fsck -fn /dev/vda >/run/e2fsck 2>&1 && echo "CHECK outer sound" || cat /run/e2fsck
"""
MOUNT = """
PATH=$PATH:/usr/sbin:/sbin
mkdir -p /run/cut
mount -t ext4 /dev/vda /run/cut || { echo "CHECK disk cannot be mounted"; exit 1; }
"""


class Machine:
    """The nested host's hardware: survives power cuts."""

    def __init__(self, folder, prefix=()):
        self.disk = make_disk(pathlib.Path(folder))
        self.kernel, self.initramfs = guest()
        self.prefix = list(prefix)

    def start(self, script):
        """Boots the nested host and runs a shell script there."""
        drive = f"file={self.disk},if=none,id=cut,format=raw,cache=writeback"
        return subprocess.Popen(
            [sys.executable, str(LAB / "lab"), "--timeout", str(PATIENCE),
             "--qemu-arg=-drive", f"--qemu-arg={drive}",
             "--qemu-arg=-device", "--qemu-arg=virtio-blk-pci,drive=cut",
             "--", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")

    def run_guest(self, log, backend):
        """The script that runs the guest, which writes records to `log` until it is dark."""
        command = f"mount -t ext4 /dev/vda /mnt && blk_guest records /mnt/{log}"
        return "exec " + shlex.join(self.prefix + [
            CLOISTER, "run", "--kernel", self.kernel, "--initrd", self.initramfs, "--append",
            f"console=ttyS0 quiet panic=-1 cloister.run=\"{command}\"", "--memory", "256M",
            "--confidential", backend, "--disk", "/run/cut/guest.img"]) + "\n"

    def cut(self, script, records):
        """Runs until the guest has synced so many records, then cuts the power.

        Returns (all that was said, the last record that the guest spoke of).
        """
        process = self.start(script)
        lines, last = [], 0
        try:
            for line in process.stdout:
                lines.append(line)
                found = re.match(r"record (\d+)\r?$", line)
                if found:
                    last = int(found[1])
                if last >= records:
                    break
            emulator = emulator_of(process.pid)
            if last < records or emulator is None:
                raise AssertionError("the guest did not get that far:\n" + "".join(lines))
            os.kill(emulator, signal.SIGKILL)
            # What was said before the cut and is still on its way.
            rest, _ = process.communicate(timeout=PATIENCE)
            for found in re.finditer(r"^record (\d+)\r?$", rest, re.MULTILINE):
                last = int(found[1])
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        return "".join(lines), last

    def last_look(self):
        """What CHECK finds, without a guest afterwards."""
        process = self.start(MOUNT + CHECK.replace("{worker}", WORKER) + CHECK_OUTER)
        said, _ = process.communicate()
        return said


def losses(said, promised):
    """What is wrong, as a list of lines. `promised` is {log: last record spoken of}."""
    wrong = [line for line in said.splitlines() if "cannot be mounted" in line]
    if "CHECK inner sound" not in said:
        wrong.append("e2fsck finds errors in the guest's file system")
    for log, last in promised.items():
        found = re.search(rf"^CHECK {log} records: (\d+)", said, re.MULTILINE)
        have = int(found[1]) if found else 0
        if have < last:
            wrong.append(f"{log}: {last} records were synced, {have} are there")
    return wrong


class PowerCutTest(unittest.TestCase):
    """Real guests, with and without private memory."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="cloister-power-cut-")
        self.addCleanup(self.folder.cleanup)
        seed = int(os.environ.get("TEST_RANDOM_SEED", "0")) or random.randrange(1 << 30)
        print(f"power cuts with seed {seed}", flush=True)
        self.random = random.Random(seed)

    def test_what_was_synced_survives(self):
        machine = Machine(self.folder.name)
        promised = {}
        for number in range(CUTS):
            script = MOUNT
            if promised:
                script += CHECK.replace("{worker}", WORKER)
            backend = ("off", "sw-protected")[number % 2]
            log = f"log-{number}"
            said, last = machine.cut(script + machine.run_guest(log, backend),
                                     self.random.randint(1, 80))
            if promised:
                self.assertEqual(losses(said, promised), [], said)
            print(f"cut {number + 1} of {CUTS} ({backend}): {last} records synced", flush=True)
            promised[log] = last
        said = machine.last_look()
        self.assertEqual(losses(said, promised), [], said)
        self.assertIn("CHECK outer sound", said)

    def test_a_monitor_that_ignores_flushes_is_found_out(self):
        machine = Machine(self.folder.name, [IGNORE_FLUSH])
        said, last = machine.cut(MOUNT + machine.run_guest("log-0", "off"), 20)
        self.assertGreaterEqual(last, 20, said)
        found = losses(machine.last_look(), {"log-0": last})
        print("ignoring flushes: " + "; ".join(found), flush=True)
        self.assertNotEqual(found, [])


if __name__ == "__main__":
    unittest.main()

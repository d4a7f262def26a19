#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Block and network speed of Cloister beside its peers: the same guest, in the same lab host.

usage (inside the lab): bench/io.py --cloister BINARY --qemu BINARY --guest-io BINARY
                        --kernel FILE --initrd FILE [--rounds N] [--mib N] [--only NAME,...]

Each round boots every monitor once, one after another, with one vCPU, 256 MiB, one raw disk on a
file in memory, and one tap. The guest runs guest_io (see guest_io.c) and powers off. Printed are the
median of the rounds, the spread (smallest to largest), the ratio of Cloister without
confidentiality to each peer (above 1 means Cloister is ahead, for latencies too), and the
processor time that each thread of a monitor had meanwhile. QEMU takes part twice: as it is, and
with devices that have VIRTIO_F_ACCESS_PLATFORM like Cloister's (no ratio to those is printed).
CLOISTER_LKVM may name a kvmtool binary; it then takes part.
"""

import argparse
import fcntl
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading

TUNSETIFF, TUNSETPERSIST = 0x400454CA, 0x400454CB
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
SIOCSIFADDR, SIOCSIFNETMASK, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8916, 0x891C, 0x8913, 0x8914
IFF_UP = 1
TAP, HOST, GUEST = "cloister-io", "10.99.0.1", "10.99.0.2"
RESULT = re.compile(r"guest_io: (\S+) ([0-9.]+) (\S+)")
LAST = "net-round-trip-p99"


class Tap:
    """A tap that stays while this object does; monitors open it by name."""

    def __init__(self):
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), flags))
        fcntl.ioctl(self.fd, TUNSETPERSIST, 1)
        os.close(self.fd)  # now down to the monitors
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, address in ((SIOCSIFADDR, HOST), (SIOCSIFNETMASK, "255.255.255.0")):
                fcntl.ioctl(control, request, struct.pack(
                    "16sHH4s16x", TAP.encode(), socket.AF_INET, 0, socket.inet_aton(address)))
            flags = struct.unpack("16sh14x", fcntl.ioctl(
                control, SIOCGIFFLAGS, struct.pack("16sh14x", TAP.encode(), 0)))[1]
            fcntl.ioctl(control, SIOCSIFFLAGS,
                        struct.pack("16sh14x", TAP.encode(), flags | IFF_UP))


def monitors(options, disk):
    """[(name, argv)] of everyone who takes part."""
    # Quotes survive the kernel's command line; the guest's init runs the command.
    command = (f"ip link set eth0 up; ip addr add {GUEST}/24 dev eth0; "
               f"guest_io block /dev/vda {options.mib} && guest_io net {HOST} {options.mib}")
    append = f"console=ttyS0 quiet panic=-1 cloister.run=\"{command}\""
    found = []
    for name, backend in (("cloister", "off"), ("cloister-sw-protected", "sw-protected")):
        found.append((name, [
            options.cloister, "run", "--kernel", options.kernel, "--initrd", options.initrd,
            "--append", append, "--cpus", "1", "--memory", "256M", "--confidential", backend,
            "--disk", disk, "--net", f"tap={TAP}"]))
    # The second as Cloister's: modern devices whose driver maps each buffer for DMA.
    for name, properties, modern in (
            ("qemu", "", []),
            ("qemu-dma", ",iommu_platform=on", ["-global", "virtio-mmio.force-legacy=false"])):
        found.append((name, [
            options.qemu, "-M", "microvm,acpi=on,pic=on,pit=on,rtc=on", "-enable-kvm",
            "-cpu", "host", "-smp", "1", "-m", "256M", "-nodefaults", "-no-user-config",
            "-nographic", "-no-reboot", "-serial", "stdio", "-kernel", options.kernel,
            "-initrd", options.initrd, "-append", append] + modern + [
            "-drive", f"id=disk,file={disk},format=raw,if=none",
            "-device", "virtio-blk-device,drive=disk" + properties,
            "-netdev", f"tap,id=net,ifname={TAP},script=no,downscript=no",
            "-device", "virtio-net-device,netdev=net" + properties]))
    if os.environ.get("CLOISTER_LKVM"):
        found.append(("kvmtool", [
            os.environ["CLOISTER_LKVM"], "run", "--kernel", options.kernel,
            "--initrd", options.initrd, "-p", append, "-c", "1", "-m", "256", "--disk", disk,
            # Its card tells the tap the legacy header's size, whatever the transport.
            "--virtio-transport", "pci-legacy",
            "--network", f"mode=tap,tapif={TAP}", "--console", "serial"]))
    if options.only:
        found = [entry for entry in found if entry[0] in options.only.split(",")]
    return found


def thread_times(pid):
    """{(thread id, name): (seconds in the guest, seconds in the host)} so far."""
    ticks, times = os.sysconf("SC_CLK_TCK"), {}
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return times  # it has just ended
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii", errors="replace") as stat:
                name, fields = re.fullmatch(r"\d+ \((.*)\) (.*)\n", stat.read(), re.DOTALL).groups()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = fields.split()
        # proc(5): utime, stime and guest_time are fields 14, 15 and 43; the first has the last.
        user, system, guest = (int(fields[number - 3]) / ticks for number in (14, 15, 43))
        times[task, name] = (guest, user + system - guest)
    return times


def spent_since(before, now):
    """{name: times} of the threads that are there now; those that ended meanwhile are not."""
    spent = {}
    for thread, times in now.items():
        was, total = before.get(thread, (0, 0)), spent.get(thread[1], (0, 0))
        spent[thread[1]] = tuple(t - w + s for t, w, s in zip(times, was, total))
    return spent


def measure(name, argv, timeout):
    """{metric: (value, unit)} of one boot, and {metric: {thread: times}} of what led to it."""
    values, spent, text = {}, {}, []
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as monitor:
        stop = threading.Timer(timeout, monitor.kill)
        stop.start()
        before = {}
        for line in monitor.stdout:
            text.append(line.decode(errors="replace"))
            found = RESULT.search(text[-1])
            if not found:
                continue
            metric, value, unit = found.groups()
            now = thread_times(monitor.pid)
            if metric != "warm-up":
                values[metric] = (float(value), unit)
                spent[metric] = spent_since(before, now)
            before = now
            if metric == LAST:  # A guest without ACPI cannot power off.
                monitor.kill()
        stop.cancel()
    if LAST not in values:
        raise RuntimeError(f"{name} ended with {monitor.returncode} before the last result:\n"
                           + "".join(text[-30:]))
    return values, spent


def measure_patiently(name, argv, timeout):
    """As measure(); peers that fail, or hang, may try again."""
    for _ in range(3):
        try:
            return measure(name, argv, timeout)
        except RuntimeError as error:
            print(f"io: {error}", file=sys.stderr, flush=True)
            if name.startswith("cloister"):
                break
    sys.exit(f"io: {name} did not get through")


def report_profile(name, rounds):
    """Where the processors' time went; `rounds` is [{metric: {thread: times}}]."""
    print(f"{name}: milliseconds of processor time per round, in the guest + in the host")
    for metric in rounds[0]:
        threads = sorted({thread for spent in rounds for thread in spent[metric]})
        cells = []
        for thread in threads:
            guest, host = (1000 * statistics.mean(spent[metric].get(thread, (0, 0))[side]
                                                  for spent in rounds) for side in (0, 1))
            if guest + host >= 5:
                cells.append(f"{thread} {guest:.0f}+{host:.0f}")
        if cells:  # what is measured together is printed with the first
            print(f"  {metric:24}" + ", ".join(cells), flush=True)


def report(names, rounds):
    """Prints one table; `rounds` is {name: [{metric: (value, unit)}]}."""
    peers = [name for name in names if name in ("qemu", "kvmtool")]
    columns = names + [f"/{peer}" for peer in peers if "cloister" in names]
    print(f"{'median (smallest-largest)':32}" + "".join(f"{name:>30}" for name in columns))
    for metric, (_, unit) in rounds[names[0]][0].items():
        cells, medians = [], {}
        for name in names:
            values = [values[metric][0] for values in rounds[name]]
            medians[name] = statistics.median(values)
            cells.append(f"{medians[name]:.1f} ({min(values):.1f}-{max(values):.1f})")
        for peer in peers if "cloister" in names else []:
            ratio = medians["cloister"] / medians[peer]
            cells.append(f"{1 / ratio if unit == 'us' else ratio:.2f}")
        print(f"{metric + ' ' + unit:32}" + "".join(f"{cell:>30}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("cloister", "qemu", "guest-io", "kernel", "initrd"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--timeout", type=float, default=120, help="of one boot, in seconds")
    parser.add_argument(
        "--only", help="some of cloister,cloister-sw-protected,qemu,qemu-dma,kvmtool")
    options = parser.parse_args()

    Tap()
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="io-") as disk, \
         subprocess.Popen([options.guest_io, "serve", HOST], stdout=subprocess.PIPE) as server:
        os.truncate(disk.name, options.mib << 20)
        server.stdout.readline()
        try:
            found = monitors(options, disk.name)
            rounds = {name: [] for name, _ in found}
            profiles = {name: [] for name, _ in found}
            for number in range(options.rounds):
                for name, argv in found:
                    values, spent = measure_patiently(name, argv, options.timeout)
                    rounds[name].append(values)
                    profiles[name].append(spent)
                    print(f"io: round {number + 1} of {options.rounds}: {name} done",
                          file=sys.stderr, flush=True)
            report([name for name, _ in found], rounds)
            for name in profiles:
                report_profile(name, profiles[name])
        finally:
            server.kill()


if __name__ == "__main__":
    main()

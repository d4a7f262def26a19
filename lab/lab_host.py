# SPDX-License-Identifier: Apache-2.0
"""One boot of the nested host, and the programs it runs.

Session starts QEMU, waits for the nested init (lab_init.c) and runs jobs one after another. It
knows three ways to fail besides a program's own: the program took too long (the host still beats),
the host hung (it stopped beating), the host died (QEMU or its kernel ended).
"""

import contextlib
import ctypes
import dataclasses
import fcntl
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty

from common import LAB, LabError, need, run, say, scratch, sha256_key
import newc
import tsc

# Exit statuses of lab/lab that are not a program's own.
EXIT_USAGE = 120
EXIT_NO_HOST = 121  # The nested host did not come up, or something it needs is missing.
EXIT_HOST_DIED = 122
EXIT_HOST_HUNG = 123
EXIT_TIMED_OUT = 124
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127

_HEADER = struct.Struct("<cI")
_INPUT_CREDIT = 32 << 10
_PR_SET_PDEATHSIG = 1
_CONSOLE_TAIL = 30
# Of silence, after which the nested host is nudged, and again after as much. QEMU changes the
# pending interrupts of its CPU without a lock where SVM is entered and left, and so now and then
# forgets that one is due: the host's timer, and with it the host, sleeps until another comes.
_NUDGE_AFTER = 3.0


class Interrupted(Exception):
    """A signal ended the run; `number` says which."""

    def __init__(self, number):
        super().__init__(f"signal {number}")
        self.number = number


class HostFailure(Exception):
    """The nested host is gone or useless. `code` is one of the EXIT_ values above."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass
class Job:
    """A program to run: `timeout` in seconds of this machine's clock; None means no limit."""

    argv: list
    name: str = ""
    cwd: str = "/"
    env: dict = dataclasses.field(default_factory=dict)
    timeout: float = None
    terminal: bool = False
    stdin: bool = False


@dataclasses.dataclass
class Result:
    """How a job ended: `code` as a shell reports it, `reason` in words, `seconds` it took."""

    name: str
    code: int
    reason: str
    seconds: float
    left_behind: int = 0


def places(cache):
    """The lock files of the nested hosts that may run at once: each wants a processor of its own."""
    return [cache / f"lab.lock.{number}" for number in range(len(os.sched_getaffinity(0)))]


def build_initramfs(cache):
    """The path of the nested host's initramfs: lab_init.c and nothing else, cached by content."""
    source = LAB / "lab_init.c"
    key = sha256_key([source.read_bytes(), (LAB / "newc.py").read_bytes()])
    target = cache / f"lab-initramfs-{key}"
    if not target.exists():
        need(("gcc", "gcc"))
        with scratch(cache, "init-") as work:
            run(["gcc", "-std=c11", "-O2", "-static", "-s", "-o", str(work / "init"), str(source)],
                "compiling the lab's init")
            archive = newc.Archive()
            archive.directory("dev")
            archive.character_device("dev/console", 5, 1)
            archive.file("init", (work / "init").read_bytes(), 0o755)
            (work / "out").write_bytes(archive.finish())
            os.replace(work / "out", target)
    return target


def _die_with_parent():
    """In the child: QEMU gets SIGKILL should this process vanish without cleaning up."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class _Signals:
    """Turns signals into events of the main loop, so that every way out cleans up."""

    FATAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

    def __init__(self):
        self.read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old = {}
        for number in self.FATAL + (signal.SIGWINCH,):
            self._old[number] = signal.signal(number, lambda *_: None)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def drain(self):
        """The signals that have arrived since the last call."""
        try:
            return list(os.read(self.read_fd, 64))
        except BlockingIOError:
            return []

    def close(self):
        signal.set_wakeup_fd(self._old_wakeup)
        for number, old in self._old.items():
            signal.signal(number, old)
        os.close(self.read_fd)
        os.close(self._write_fd)


@contextlib.contextmanager
def raw_terminal(fd):
    """Puts a terminal into raw mode, and back on every way out."""
    if not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, saved)


def window_size(fd):
    """(rows, columns) of a terminal; 24 x 80 where there is none."""
    try:
        rows, columns = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))[:2]
    except OSError:
        rows, columns = 0, 0
    return (rows or 24, columns or 80)


def _write_all(fd, data):
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except BlockingIOError:  # The caller's stdout may be non-blocking.
            select.select([], [fd], [])


@dataclasses.dataclass
class HostOptions:
    """What a nested host is made of. `shares` are writable folders, at the same path inside."""

    qemu: str
    kernel: str
    initramfs: str
    memory: str = "4G"
    shares: list = dataclasses.field(default_factory=list)
    qemu_args: list = dataclasses.field(default_factory=list)
    boot_timeout: float = 120
    hang_timeout: float = 60
    verbose: bool = False


class Session:
    """A running nested host. A context manager: leaving it ends QEMU whatever happened."""

    def __init__(self, options):
        self._options = options
        self._signals = _Signals()
        self._socket = None
        self._process = None
        self._console = bytearray()
        self._complaints = bytearray()
        self._received = bytearray()
        self._to_send = bytearray()
        self._credit = _INPUT_CREDIT
        self._last_sign = time.monotonic()
        self._last_nudge = self._last_sign
        self._input_open = False
        self._ready = False  # Heartbeats are due from the first job on.
        self._eof = set()

    def __enter__(self):
        try:
            self._start()
            self._wait_ready()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_):
        self._close()

    def _command(self, fd):
        options = self._options
        append = (f"console=ttyS0 loglevel=4 panic=-1 nokaslr tsc=reliable "
                  f"tsc_early_khz={tsc.frequency_khz()}")
        command = [
            options.qemu, "-accel", "tcg,thread=single", "-cpu", "EPYC,+svm,+npt,-cx16",
            "-M", "q35", "-smp", "1", "-m", options.memory, "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot",
            "-kernel", options.kernel, "-initrd", options.initramfs,
            "-chardev", "stdio,id=console,mux=off,signal=off", "-serial", "chardev:console",
            "-device", "virtio-serial-pci", "-chardev", f"socket,id=lab,fd={fd}",
            "-device", "virtserialport,chardev=lab,name=cloister.lab",
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,"
                       "multidevs=remap",
        ]
        for index, share in enumerate(options.shares):
            if "," in share or "%" in share:
                raise LabError(f"a shared folder's name may not have ',' or '%': {share}",
                               EXIT_USAGE)
            command += ["-virtfs", f"local,path={share},mount_tag=share{index},"
                                   "security_model=none,multidevs=remap"]
            append += f" lab.share=share{index}:{share.replace(' ', '%20')}"
        return command + ["-append", append] + list(options.qemu_args)

    def _start(self):
        ours, theirs = socket.socketpair()
        self._socket = ours
        ours.setblocking(False)
        os.set_inheritable(theirs.fileno(), True)
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, pass_fds=[theirs.fileno()], start_new_session=True,
                preexec_fn=_die_with_parent)
        except OSError as error:
            raise LabError(f"cannot start {self._options.qemu}: {error.strerror}",
                           EXIT_NO_HOST) from error
        finally:
            theirs.close()
        for stream in (self._process.stdout, self._process.stderr):
            os.set_blocking(stream.fileno(), False)

    def _close(self):
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        if self._socket is not None:
            self._socket.close()
        self._signals.close()

    def _wait_ready(self):
        deadline = time.monotonic() + self._options.boot_timeout
        try:
            for kind, _ in self._frames(deadline):
                if kind == b"R":
                    return
        except HostFailure as failure:
            raise HostFailure(f"the lab host did not come up: {failure}", EXIT_NO_HOST) from None
        raise HostFailure(f"the lab host did not come up within {self._options.boot_timeout:g} s"
                          + self._tail(), EXIT_NO_HOST)

    def _tail(self):
        """The end of the nested host's console and of QEMU's own messages, for error reports."""
        text = self._console.decode(errors="replace").replace("\r", "")
        lines = [line for line in text.splitlines() if line.strip()][-_CONSOLE_TAIL:]
        lines += [line for line in self._complaints.decode(errors="replace").splitlines()
                  if "TCG doesn't support requested feature" not in line][-5:]
        return "".join(f"\n  | {re.sub(r'[^ -~]', '', line)}" for line in lines)

    def _send(self, kind, payload=b""):
        self._to_send += _HEADER.pack(kind, len(payload)) + payload

    def _frames(self, deadline):
        """Yields (type, payload) until `deadline` (None: for ever); then ends.

        Raises HostFailure when the host dies or stops beating, Interrupted on a fatal signal.
        """
        while True:
            while len(self._received) >= _HEADER.size:
                kind, size = _HEADER.unpack_from(self._received)
                end = _HEADER.size + size
                if len(self._received) < end:
                    break
                payload = bytes(self._received[_HEADER.size:end])
                del self._received[:end]
                yield kind, payload
                # The consumer may have been busy writing: that time is not the host's.
                self._last_sign = time.monotonic()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            hung_at = self._last_sign + self._options.hang_timeout
            if now >= hung_at and self._ready:
                raise HostFailure(
                    f"the lab host hung: no sign of life for {self._options.hang_timeout:g} s"
                    + self._tail(), EXIT_HOST_HUNG)
            until = [deadline] if deadline is not None else []
            if self._ready:
                until += [hung_at, self._nudge(now)]
            self._pump(max(0.0, min(until) - now) if until else None)

    def _nudge(self, now):
        """Sends a silent host an interrupt if that is due; returns when it is due next."""
        if now >= max(self._last_sign, self._last_nudge) + _NUDGE_AFTER:
            self._last_nudge = now
            self._send(b"N")
            if self._options.verbose:
                say(f"nudging the lab host: no sign of life for {now - self._last_sign:.0f} s")
        return max(self._last_sign, self._last_nudge) + _NUDGE_AFTER

    def _pump(self, timeout):
        """Waits for one round of events and moves bytes; complete frames stay in _received."""
        reads = {self._signals.read_fd: self._on_signals}
        if "socket" not in self._eof:
            reads[self._socket.fileno()] = self._on_socket
        for name, stream, sink in (("console", self._process.stdout, self._console),
                                   ("qemu", self._process.stderr, self._complaints)):
            if name not in self._eof:
                reads[stream.fileno()] = lambda n=name, f=stream.fileno(), s=sink: \
                    self._on_stream(n, f, s)
        if self._input_open and self._credit > 0:
            reads[0] = self._on_stdin
        writes = [self._socket.fileno()] if self._to_send else []
        readable, writable, _ = select.select(list(reads), writes, [], timeout)
        for fd in readable:
            reads[fd]()
        if writable:
            try:
                del self._to_send[:self._socket.send(self._to_send)]
            except BlockingIOError:
                pass
            except OSError:
                self._to_send.clear()
        if {"socket", "console", "qemu"} <= self._eof and not self._received:
            status = self._process.wait()
            how = f"QEMU exited with {status}" if status >= 0 else \
                f"QEMU was killed by signal {-status}"
            raise HostFailure(f"the lab host died: {how}" + self._tail(), EXIT_HOST_DIED)

    def _on_signals(self):
        for number in self._signals.drain():
            if number == signal.SIGWINCH:
                self._send(b"W", struct.pack("<HH", *window_size(0)))
            elif number in _Signals.FATAL:
                raise Interrupted(number)

    def _on_socket(self):
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received += data
            self._last_sign = time.monotonic()
        else:
            self._eof.add("socket")
            # A frame cut in half will never be whole.
            if not self._has_frame():
                self._received.clear()

    def _has_frame(self):
        if len(self._received) < _HEADER.size:
            return False
        return len(self._received) >= _HEADER.size + _HEADER.unpack_from(self._received)[1]

    def _on_stream(self, name, fd, sink):
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._eof.add(name)
            return
        sink += data
        del sink[:-(64 << 10)]
        if self._options.verbose:
            sys.stderr.buffer.write(data)
            sys.stderr.flush()

    def _on_stdin(self):
        try:
            data = os.read(0, min(self._credit, 4096))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._credit -= len(data)
            self._send(b"I", data)
        else:
            self._input_open = False
            self._send(b"E")

    @staticmethod
    def _encode(job):
        rows, columns = window_size(0) if job.terminal else (24, 80)
        fields = [job.cwd, "1" if job.terminal else "0", str(rows), str(columns),
                  str(len(job.env)), *(f"{k}={v}" for k, v in job.env.items()),
                  str(len(job.argv)), *job.argv]
        return b"".join(os.fsencode(field) + b"\0" for field in fields)

    def run(self, job):
        """Runs one job, passing its output on as it comes. Returns its Result.

        Raises HostFailure (the session is then useless) or Interrupted.
        """
        payload = self._encode(job)
        if len(payload) > 1 << 20:
            raise LabError("arguments and environment are longer than 1 MiB", EXIT_USAGE)
        start = time.monotonic()
        self._ready = True
        self._last_sign = start
        self._credit = _INPUT_CREDIT
        self._send(b"J", payload)
        self._input_open = job.stdin
        if not job.stdin:
            self._send(b"E")
        with raw_terminal(0) if job.terminal else contextlib.nullcontext():
            try:
                result = self._until_done(job, start, None if job.timeout is None
                                          else start + job.timeout)
            finally:
                self._input_open = False
        return result

    def _until_done(self, job, start, deadline):
        for kind, payload in self._frames(deadline):
            result = self._handle(job, start, kind, payload)
            if result is not None:
                return result
        self._send(b"K")
        reason = f"timed out after {job.timeout:g} s"
        for kind, payload in self._frames(time.monotonic() + 20):
            result = self._handle(job, start, kind, payload)
            if result is not None:
                return dataclasses.replace(result, code=EXIT_TIMED_OUT, reason=reason)
        raise HostFailure(f"{job.name} {reason} and cannot be killed" + self._tail(),
                          EXIT_TIMED_OUT)

    def _handle(self, job, start, kind, payload):
        """Acts on one frame; a Result when it was the job's last."""
        if kind == b"O":
            _write_all(1, payload)
        elif kind == b"X":
            _write_all(2, payload)
        elif kind == b"C":
            self._credit += struct.unpack("<I", payload)[0]
        elif kind == b"D":
            status, left = struct.unpack("<iI", payload)
            seconds = time.monotonic() - start
            if os.WIFSIGNALED(status):
                number = os.WTERMSIG(status)
                name = signal.Signals(number).name if number in set(signal.Signals) else number
                return Result(job.name, 128 + number, f"killed by {name}", seconds, left)
            code = os.WEXITSTATUS(status)
            return Result(job.name, code, f"exit {code}", seconds, left)
        elif kind == b"F":
            error = struct.unpack_from("<i", payload)[0]
            code = EXIT_NOT_FOUND if error == 2 else EXIT_NOT_EXECUTABLE
            reason = "cannot start " + payload[4:].decode(errors="replace")
            return Result(job.name, code, reason, time.monotonic() - start)
        return None

    def power_off(self, timeout=20):
        """Ends the nested host in an orderly way, so that writable shares are complete."""
        self._send(b"P")
        try:
            for _ in self._frames(time.monotonic() + timeout):
                pass
        except HostFailure as failure:
            if failure.code != EXIT_HOST_DIED:
                raise

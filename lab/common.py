# SPDX-License-Identifier: Apache-2.0
"""What the lab's scripts share: the cache folder, Debian packages, errors, progress.

Standard library only. Nothing here changes the system's own package sources or installs anything.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

LAB = pathlib.Path(__file__).resolve().parent


class LabError(Exception):
    """A failure with one line to show. `code` is the exit status that goes with it."""

    def __init__(self, message, code=1):
        super().__init__(message)
        self.code = code


def say(message):
    """One line of progress, on standard error."""
    print(f"lab: {message}", file=sys.stderr, flush=True)


def exit_on_signals():
    """Makes SIGTERM and SIGHUP an orderly exit, so that temporary files and children go too."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))


def run_main(main):
    """Runs main(argv) and turns LabError and Ctrl-C into one line and an exit status."""
    exit_on_signals()
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        print(f"lab: error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def cache_dir():
    """The lab's folder in the user's cache, created when it is missing."""
    root = os.environ.get("CLOISTER_CACHE")
    if not root:
        base = os.environ.get("XDG_CACHE_HOME")
        if not base:
            home = os.environ.get("HOME")
            if not home:
                raise LabError("neither CLOISTER_CACHE, XDG_CACHE_HOME nor HOME is set")
            base = os.path.join(home, ".cache")
        root = os.path.join(base, "cloister")
    path = pathlib.Path(root).absolute() / "lab"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot create the cache folder {path}: {error.strerror}") from error
    return path


# depmod and friends; a user's PATH may lack their folder.
os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


def need(*commands):
    """Fails naming each command that is not installed. Takes (command, Debian package) pairs."""
    missing = [f"{command} (package {package})" for command, package in commands
               if not shutil.which(command)]
    if missing:
        raise LabError("missing: " + ", ".join(missing))


@contextlib.contextmanager
def locked(path, waiting):
    """Holds an exclusive lock on `path`; prints `waiting` if someone else has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def locked_one(paths, waiting):
    """Holds an exclusive lock on one of `paths`; prints `waiting` if someone else has them all."""
    fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666) for path in paths]
    try:
        said = False
        while not any(_lock(fd) for fd in fds):
            if not said:
                say(waiting)
            said = True
            time.sleep(0.1)  # Nothing tells when the first of several locks is free.
        yield
    finally:
        for fd in fds:
            os.close(fd)


def _lock(fd):
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


@contextlib.contextmanager
def scratch(cache, prefix):
    """A temporary folder inside the cache, removed on the way out."""
    base = cache / "tmp"
    base.mkdir(exist_ok=True)
    path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(argv, what, **kwargs):
    """Runs a command quietly; on failure raises LabError with its last lines."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, check=False, **kwargs)
    if done.returncode != 0:
        tail = " | ".join(done.stdout.strip().splitlines()[-4:])
        raise LabError(f"{what} failed (exit {done.returncode}): {tail}")
    return done.stdout


def sha256_key(parts):
    """A short key over an ordered list of byte strings."""
    import hashlib
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


class Progress:
    """`label 123/456 27 % 1:02`, rewritten in place on a terminal, every tenth on a log."""

    def __init__(self, label, total):
        self._label = label
        self._total = max(total, 1)
        self._count = 0
        self._start = time.monotonic()
        self._tty = sys.stderr.isatty()
        self._last = -1

    def step(self):
        self._count += 1
        percent = min(99, self._count * 100 // self._total)
        if percent == self._last or (not self._tty and percent < self._last + 10):
            return
        self._last = percent
        self._print(percent)

    def done(self):
        self._print(100)
        if self._tty:
            print(file=sys.stderr, flush=True)

    def _print(self, percent):
        took = int(time.monotonic() - self._start)
        text = (f"lab: {self._label} {self._count}/{max(self._total, self._count)} "
                f"{percent} % {took // 60}:{took % 60:02d}")
        print(("\r" + text) if self._tty else text, end="" if self._tty else "\n",
              file=sys.stderr, flush=True)


class Apt:
    """Debian's archive through apt's own options, with lists of its own in the cache.

    The system's sources, lists and installed packages stay as they are. The mirror is the one the
    system uses for Debian. Only `download` and queries are offered: nothing is ever installed.
    """

    KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

    def __init__(self, cache, suites):
        need(("apt-get", "apt"), ("dpkg-deb", "dpkg"))
        self._dir = cache / "apt" / sha256_key([suite.encode() for suite in suites])
        for sub in ("lists/partial", "archives/partial"):
            (self._dir / sub).mkdir(parents=True, exist_ok=True)
        mirror, security = self._mirrors()
        lines = []
        for suite in suites:
            base = security if suite.endswith("-security") else mirror
            lines.append(f"deb [signed-by={self.KEYRING}] {base} {suite} main\n")
        self._list = self._dir / "sources.list"
        self._list.write_text("".join(lines))
        self._options = [
            "-o", f"Dir::Etc::SourceList={self._list}", "-o", "Dir::Etc::SourceParts=-",
            "-o", f"Dir::State::Lists={self._dir}/lists", "-o", f"Dir::Cache={self._dir}",
            "-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none",
            "-o", "Debug::NoLocking=1",
        ]
        self._updated = False

    @staticmethod
    def _mirrors():
        mirror = "http://deb.debian.org/debian"
        security = "http://deb.debian.org/debian-security"
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for line in listed.stdout.splitlines():
            words = line.split()
            if len(words) < 3 or words[0] != "Debian":
                continue
            if "Security" in line:
                security = words[-1].rstrip("/")
            else:
                mirror = words[-1].rstrip("/")
        return mirror, security

    def update(self):
        """Fetches the lists, once per object."""
        if not self._updated:
            say("reading Debian's package lists")
            run(["apt-get", *self._options, "-q", "update"], "apt-get update")
            self._updated = True

    def versions(self, package):
        """Every version on offer, newest first. Empty when there is none."""
        self.update()
        out = run(["apt-cache", *self._options, "madison", package], "apt-cache madison")
        return [line.split("|")[1].strip() for line in out.splitlines() if line.count("|") >= 2]

    def names(self, prefix):
        """The names of all packages that begin with `prefix`."""
        self.update()
        return run(["apt-cache", *self._options, "pkgnames", prefix], "apt-cache").split()

    def dependencies(self, package):
        """The names a package depends on directly."""
        self.update()
        out = run(["apt-cache", *self._options, "depends", package], "apt-cache depends")
        return [line.split("Depends:")[1].strip() for line in out.splitlines()
                if line.strip().startswith("Depends:")]

    def download(self, package, version, folder):
        """Puts the package's .deb into `folder` and returns its path."""
        self.update()
        say(f"downloading {package} {version}")
        with tempfile.TemporaryDirectory(dir=folder) as work:
            run(["apt-get", *self._options, "-q", "download", f"{package}={version}"],
                f"apt-get download {package}={version}", cwd=work)
            debs = list(pathlib.Path(work).glob("*.deb"))
            if len(debs) != 1:
                raise LabError(f"apt-get download {package}={version} left {len(debs)} files")
            target = pathlib.Path(folder) / debs[0].name
            os.replace(debs[0], target)
        return target

    def download_with_dependencies(self, packages, folder):
        """Puts the packages, and all that a system without any would need for them, there."""
        self.update()
        say(f"downloading {' '.join(packages)} and what they depend on")
        (pathlib.Path(folder) / "partial").mkdir()
        status = self._dir / "no-packages"
        status.write_text("")
        run(["apt-get", *self._options, "-o", f"Dir::State::Status={status}",
             "-o", f"Dir::Cache::Archives={folder}", "-o", "APT::Install-Recommends=false",
             "-q", "-y", "--download-only", "install", *packages],
            f"apt-get install --download-only {' '.join(packages)}")

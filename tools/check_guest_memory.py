#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that guest memory is not reached by pointer outside memory/.

A guest can change its memory while the monitor reads it, and a page can become
private at any time, so the rest of the monitor copies through memory/'s checked
reads and writes, under a lease. What gets around that is listed here, file by
file, with the reason:

1. Outside memory/ (tests excepted), the words that lead to a raw address.
2. In memory/'s own headers, public functions that return a raw pointer, a span
   of bytes or a reference to memory.

An entry that nothing needs any more is an error, too. Prints one line per
violation. With a folder as argument, checks the tree there.
"""

import os
import re
import sys

# Words that turn guest memory into an address, and what they are.
WORDS = {
    "HostAddress": "a host address of guest memory",
    "ForKvmSlot": "a host address of guest memory",
    "host_address": "a host address of guest memory",
    "iov_base": "the address in an iovec, which may be guest memory's",
    "AppendIovecs": "guest memory without a lease",
    "GatherIovecs": "the addresses of leased guest memory",
    "mmap(": "a mapping, which may be of guest memory",
    "Mmap(": "a mapping, which may be of guest memory",
    "mremap(": "a mapping, which may be of guest memory",
    "process_vm_readv": "memory of another process",
    "process_vm_writev": "memory of another process",
}
WORD = re.compile("|".join(rf"\b{re.escape(w)}" + ("" if w[-1] == "(" else r"\b") for w in WORDS))

# File: {word: why}. Keep it short: each is a place to review by hand.
ALLOWED = {
    "confidential/guest_ram.cc": {
        "ForKvmSlot": "gives KVM the slot's address",
        "host_address": "gives KVM the slot's address",
    },
    "confidential/off.cc": {
        "ForKvmSlot": "gives KVM the slot's address",
        "host_address": "gives KVM the slot's address",
    },
    "confidential/private_region.cc": {
        "mmap(": "a PROT_NONE reservation, and a private file that the emulated backend reads to find leaks",
    },
    "devices/virtio/blk_task.cc": {
        "iov_base": "compares its alignment with what O_DIRECT wants; never dereferenced",
    },
    "devices/virtio/disk_op.cc": {
        "iov_base": "moves an iovec past what the kernel has transferred; never dereferenced",
    },
    "devices/virtio/driver_fake_ram.cc": {
        "ForKvmSlot": "the tests' memory: what a device must not touch is protected; never dereferenced",
        "host_address": "the tests' memory: what a device must not touch is protected; never dereferenced",
    },
    "devices/virtio/queue.cc": {
        "GatherIovecs": "a chain's iovecs, for readv(2) and io_uring; never dereferenced",
    },
    "kvm/fake_kvm.cc": {"mmap(": "the fake's system call", "Mmap(": "the seam"},
    "kvm/fake_kvm.h": {"Mmap(": "the seam"},
    "kvm/fault_kvm.cc": {"Mmap(": "the seam"},
    "kvm/fault_kvm.h": {"Mmap(": "the seam"},
    "kvm/guest_memfd.cc": {"Mmap(": "a mapping for the owner of the file, as HostMapping"},
    "kvm/syscalls.cc": {"mmap(": "the system call itself", "Mmap(": "the seam"},
    "kvm/syscalls.h": {"Mmap(": "the seam"},
    "kvm/test_guest.cc": {"Mmap(": "anonymous memory of a native test's guest"},
    "kvm/vcpu_fd.cc": {"Mmap(": "KVM's run page, which is not guest memory"},
    "vmm/linux_probe.cc": {
        "ForKvmSlot": "gives KVM the slot's address",
        "host_address": "gives KVM the slot's address",
    },
}

# Public functions of memory/ that may return raw memory: the escape hatches.
HATCHES = {
    "memory/lease_env.h": {"as": "pages of the lease table, not of the guest"},
}
RAW = re.compile(
    r"^\s*(?:static\s+|virtual\s+|const\s+)*(?:absl::StatusOr<)?\s*"
    r"(?:const\s+)?(?:(?:uint8_t|char|void|std::byte|T)\s*[*&]>?"
    r"|absl::Span<(?:const\s+)?(?:uint8_t|std::byte|char|T|struct iovec)>>?)\s+(\w+)\(",
    re.M,
)
ADDRESS = re.compile(r"^\s*(?:absl::StatusOr<)?uintptr_t>?\s+(\w+)\(", re.M)
SOURCE = (".h", ".cc")
OUTSIDE = {"tests", "bench", "fuzz", "lab", "third_party", "memory", ".git", "tools", "docs"}


def is_test(path):
    return re.search(r"(_test|_test_child|_fuzz)\.(cc|h)$", path) is not None


def code_of(text):
    """The text without comments and string contents, line by line."""
    text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)
    return "\n".join(
        re.sub(r'"(?:[^"\\]|\\.)*"', '""', line).split("//")[0] for line in text.split("\n")
    )


def sources(root, folder=""):
    for path, folders, files in os.walk(os.path.normpath(os.path.join(root, folder))):
        folders[:] = [f for f in folders if not os.path.islink(os.path.join(path, f))]
        if path == os.path.normpath(root):
            folders[:] = [f for f in folders if f not in OUTSIDE]
        for name in sorted(files):
            if name.endswith(SOURCE):
                yield os.path.relpath(os.path.join(path, name), root)


def read(root, path):
    with open(os.path.join(root, path)) as file:
        return code_of(file.read())


def check_words(root, allowed, unused):
    for path in sources(root):
        if is_test(path):
            continue
        for number, line in enumerate(read(root, path).split("\n"), 1):
            for word in WORD.findall(line):
                if line.lstrip().startswith("#include"):
                    continue
                unused.discard((path, word))
                if word not in allowed.get(path, {}):
                    yield f"{path}:{number}: '{word}' is {WORDS[word]}: use memory/'s copies, or say why in tools/check_guest_memory.py"


def public_parts(text):
    """Class bodies up to 'private:' or 'protected:'; other declarations whole."""
    return re.sub(r"^\s*(?:private|protected):.*?(?=^\s*public:|^\S)", "\n", text, flags=re.M | re.S)


def check_headers(root, hatches, unused):
    for path in sources(root, "memory"):
        if not path.endswith(".h") or re.search(r"/(fake|fault)_|_model\.h$|_copy\.h$", path):
            continue
        text = public_parts(read(root, path))
        for name in RAW.findall(text) + ADDRESS.findall(text):
            unused.discard((path, name))
            if name not in hatches.get(path, {}):
                yield f"{path}: public {name}() returns raw memory"


def check(root, allowed, hatches):
    unused = {(path, word) for table in (allowed, hatches) for path in table for word in table[path]}
    problems = list(check_words(root, allowed, unused)) + list(check_headers(root, hatches, unused))
    problems += [f"tools/check_guest_memory.py: {path} has no '{word}' any more" for path, word in sorted(unused)]
    return problems


def main(arguments):
    problems = check(arguments[0] if arguments else ".", ALLOWED, HATCHES)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

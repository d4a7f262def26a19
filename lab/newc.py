# SPDX-License-Identifier: Apache-2.0
"""Writes initramfs archives ("newc" cpio), byte for byte the same for the same content.

Owner 0:0, time 0, inode numbers in order: nothing of the building machine gets in, and no
privilege is needed for device nodes. Format: Documentation/driver-api/early-userspace/
buffer-format.rst of the kernel.
"""

import stat


class Archive:
    """Collects entries in order; parents must be added before their children."""

    def __init__(self):
        self._data = bytearray()
        self._inode = 0
        self._names = set()

    def _entry(self, name, mode, content=b"", device=(0, 0)):
        if name in self._names:
            raise ValueError(f"{name} is in the archive already")
        self._names.add(name)
        if name != "TRAILER!!!":
            self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode if mode else 0, mode, 0, 0, links, 0, len(content), 0, 0,
                  device[0], device[1], len(encoded), 0)
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields)
        self._data += encoded
        self._pad()
        self._data += content
        self._pad()

    def _pad(self):
        self._data += bytes(-len(self._data) % 4)

    def directory(self, name, mode=0o755):
        """Adds a directory, and its parents where they are missing."""
        parent = name.rpartition("/")[0]
        if parent and parent not in self._names:
            self.directory(parent)
        if name not in self._names:
            self._entry(name, stat.S_IFDIR | mode)

    def file(self, name, content, mode=0o644):
        """Adds a regular file, and its parents where they are missing."""
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._entry(name, stat.S_IFREG | mode, content)

    def symlink(self, name, target):
        """Adds a symbolic link."""
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor, mode=0o600):
        """Adds a character device node."""
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def finish(self):
        """The archive's bytes."""
        self._entry("TRAILER!!!", 0)
        self._data += bytes(-len(self._data) % 512)
        return bytes(self._data)

"""A disk that is full from the n-th write of a file on: half of it arrives, as on a real one, and nothing after it."""

import errno
import os


class FullDisk:
    """In place of `certtrain.system.files.put`, through which all of certtrain's own files are written.

    Args:
        name: part of a file's name; None counts every file.
        at: the write of such a file that finds no room, from 1.
    """

    def __init__(self, put, name=None, at=1):
        self.put, self.name, self.at, self.full = put, name, at, False

    def __call__(self, file, content):
        if not self.full:
            path = os.readlink(f"/proc/self/fd/{file.fileno()}")
            self.at -= self.name is None or self.name in os.path.basename(path)
            self.full = self.at == 0
        if self.full:
            self.put(file, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.put(file, content)

"""Disks that are full."""

import contextlib
import resource


@contextlib.contextmanager
def file_size_limit(size):
    """The kernel refuses to write files beyond a size: a full disk that needs no disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

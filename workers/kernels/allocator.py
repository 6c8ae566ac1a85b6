"""How the C library hands out memory to the tensors of a CPU: freed memory is kept for the next step."""

import ctypes
import functools
import sys

# As <malloc.h> of glibc numbers them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MMAP_THRESHOLD_BYTES = 32 * 2**20
"""The largest that glibc takes."""


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GiB, for itself; whether the C library can be told so.

    Without it each step asks the kernel again for its activations, page by page, and gives them back: a tenth and more
    of a small network's step. No value that is computed depends on it.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # Each returns 1 where it took the value.
    return all(
        library.mallopt(option, size_bytes)
        for option, size_bytes in (
            (_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES),
            (_TRIM_THRESHOLD, 2**31 - 1),
            (_TOP_PAD, 64 * 2**20),
        )
    )

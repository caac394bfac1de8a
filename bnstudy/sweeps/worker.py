"""What a process does to itself before it trains, whichever engine started it."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def prepare_process(threads: int) -> None:
    """Set the number of threads, repeatable kernels, and an allocator that keeps freed memory.

    glibc hands large blocks back to the system when they are freed and gets them back page by page; a network frees and
    takes the same blocks every step. Kept, a small network's evaluation takes half the time.

    Args:
        threads: threads of PyTorch's operators.
    """
    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.backends.cudnn.deterministic = True  # the same command gives the same numbers
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: only speed is lost
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

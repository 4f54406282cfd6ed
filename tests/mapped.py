"""Whether an array lies in a mapped file."""

import mmap

import numpy as np


def is_mapped(array):
    """Return whether the memory of an array is that of a file, not a copy."""
    owner = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    return isinstance(owner, mmap.mmap)

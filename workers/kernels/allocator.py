"""How the C library hands out memory to the tensors of a CPU: a part of the environment that workers start with."""

ENVIRONMENT = {
    # What a step frees, the next one takes. By default the kernel gets a step's activations back and gives them out
    # anew, page by page: 8,000 to 33,000 page faults a step of ViT-Ti/4 with 64 images, and one with this.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # Pages of 2 MiB where the kernel has them. The others are not among these tunables: a process would pass on the
    # first alone to its children, since glibc before 2.39 cuts its own variable up as it reads it.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Read when a process starts, by glibc alone. No value that is computed depends on it."""

"""A Ray cluster in processes of its own, for tests: `python -m tests.cluster_process FOLDER [IP]`.

Prints the address of its head, and lives until its standard input ends. IP: where the head says that it is.
"""

import os
import sys
from typing import Any


def main(folder: str, head_ip: str | None) -> None:
    """Start a head of two CPUs, and wait."""
    os.environ.update(RAY_TMPDIR=folder, RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="token")
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80 * 1024**2}
    if head_ip:
        head["node_ip_address"] = head_ip
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)

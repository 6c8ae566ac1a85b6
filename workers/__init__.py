"""Sets what must be in the environment before torch is imported by any module of this package; holds nothing else."""

import os

# With torch_tpu installed on a host without a TPU, the first backward asks the cloud's metadata server for ever. Only
# the package's own file is sure to run before the first `import torch`, so this one is not empty.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

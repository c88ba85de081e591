"""The tests; they mirror the package."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # One worker per core: threads of their own would only compete. torch reads this once, when it is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

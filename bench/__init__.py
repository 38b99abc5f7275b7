"""The benchmarks. README.md says what they measure."""

import os

# Read when torch is imported: its profiler announces itself, and warns of all memory that it did not see taken.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

"""The CUDA kernels, executed thread by thread on the CPU.

g++ compiles the same .cu and .cuh files as nvcc. In include/ lies what they see instead of the CUDA toolkit: a thread
of a block is a fiber that runs until a barrier or a collective of its warp, in an order that is drawn from a seed
(hostcuda/block.h, warp.h); shared memory, asynchronous copies, ldmatrix and mma do what the PTX ISA says, and the
worst that it allows (shared_memory.h, async_copies.h, mma.h, tensor_core.h). What a kernel may not do is an error.
CMakeLists.txt makes a Python module of each room of csrc with its bindings/<room>.cpp, plain or sanitized.

It shows wrong indices, tails, layouts, barriers, races and sums. It does not show speed, what the memory model allows
between barriers, or blocks of one launch that wait for each other: they run one after the other.

A new kernel: bind its launcher in bindings/, describe a launch and its check in cases.py or cases_pointwise.py, list
shapes in suite.py, and seed three faults in tests/test_host_mutants.py or mutants_pointwise.py.
"""

"""The CUDA kernels, executed thread by thread on the CPU.

g++ compiles the same .cu and .cuh files as nvcc. In include/ lies what they see instead of the CUDA toolkit: a thread
of a block is a fiber that runs until a barrier or a collective of its warp, in an order that is drawn from a seed
(hostcuda/block.h, warp.h); shared memory, asynchronous copies, ldmatrix and mma do what the PTX ISA says, and the
worst that it allows (shared_memory.h, async_copies.h, mma.h, tensor_core.h). What a kernel may not do is an error.

It shows wrong indices, tails, layouts, barriers, races and sums. It does not show speed, what the memory model allows
between barriers, or blocks of one launch that wait for each other: they run one after the other.

CMakeLists.txt makes a Python module of each room of csrc, in several configurations: plain, under a sanitizer
(address, undefined, thread), or for traffic. The suite runs plain, address and traffic, `make sanitize` the others.
Plain kernels are compiled for all four types of elements, the others for fp32 and bfloat16 alone.
What is no kernel is compiled once for all of them, without sanitizers: the bindings, and the emulation of what never
touches a kernel's memory (emulation/). What does touch it is in the headers, and compiled with the kernels.

The plain modules hold seeded faults (mutants.py), of which none is chosen until a test asks for one.

The traffic modules count what kernels move: compiled for TSan but linked with accesses.cpp in TSan's place, every
access marks the bytes of the launch's buffers in a ledger (hostcuda/ledger.h), which counts the products of mma too.
Where they are asked to, they also bring a warp's accesses to shared memory together (hostcuda/bank_ledger.h), for a
table of bank conflicts (bank_conflicts.py).

A new kernel: bind its launcher in bindings/, describe a launch and its check in cases_*.py, list shapes in suite.py,
give it a row in traffic_table.py, and seed three faults in mutants_*.py.
"""

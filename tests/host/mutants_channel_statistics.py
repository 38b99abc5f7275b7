"""Seeded faults in the kernels of channel statistics; see mutants.py. mutants_dists.py has those of shared pieces."""

from __future__ import annotations

from host.mutants import GUARD, MISALIGNED, ORDER, VALUES, Mutant

KERNELS, LAUNCH = "dists/channel_statistics.cuh", "dists/channel_statistics.cu"

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    Mutant("channel statistics: slots of the first sample", "channel_statistics", KERNELS,
           "int64_t(group) * layer.chunks", "int64_t(place.group) * layer.chunks", f"{VALUES}|{ORDER}"),
    Mutant("channel statistics: no eps beneath the root", "channel_statistics", KERNELS,
           "sqrt(variance[0] + Acc(kDeviationEps))", "sqrt(variance[0])", VALUES, case="far from zero"),
    Mutant("channel statistics: groups of the first layer", "channel_statistics", KERNELS,
           "table.arrivals + layer.first_group + group", "table.arrivals + group", f"{VALUES}|{ORDER}"),
    Mutant("channel statistics: samples side by side", "channel_statistics", KERNELS,
           "«place.n * layer.stride_x»}}", "place.n * layer.pixels * layer.channels", f"{VALUES}|{MISALIGNED}"),
    Mutant("channel statistics backward: numbers of folded channels", "channel_statistics_backward", KERNELS,
           "channel % layer.channels", "channel", VALUES),
    Mutant("channel statistics backward: stride of the features", "channel_statistics_backward", KERNELS,
           "layer.dx + «place.n * layer.pixels * layer.channels» + walk.first", "place.n * layer.stride_x",
           f"{VALUES}|{GUARD}|{MISALIGNED}"),
    Mutant("channel statistics backward: stride of the features for others", "channel_statistics_backward", KERNELS,
           "place.n * layer.stride_other", "place.n * layer.stride_x", f"{VALUES}|{MISALIGNED}", case="added"),
    Mutant("channel statistics backward: slopes before they are there", "channel_statistics_backward", KERNELS,
           "«__syncthreads();»  // the block's slopes are there", "", f"{ORDER}|{VALUES}"),
    Mutant("channel statistics backward: over the end", "channel_statistics_backward", KERNELS,
           "if (i + j >= walk.packs) break;", "", f"{VALUES}|{GUARD}|{ORDER}"),
    Mutant("channel statistics backward: pixels of the part", "channel_statistics_backward", LAUNCH,
           "Acc(1) / Acc(layer.of_pixels)", "Acc(1) / Acc(layer.pixels)", VALUES),
    Mutant("channel statistics backward: others begin with packs", "channel_statistics_backward", LAUNCH,
           "begins_packed<T>(layer.other, batch, layer.stride_other)", "true", MISALIGNED, case="added"),
]  # fmt: skip

"""Seeded faults in the kernels of DISTS and its pooling; see mutants.py."""

from __future__ import annotations

from host.mutants import GUARD, MISALIGNED, ORDER, VALUES, Mutant

DISTS, MOMENTS, SUMS, WALK, GRADIENT = (
    f"dists/{name}.cuh" for name in ("dists", "moments", "sums", "walk", "gradient")
)
POOL, VEC = "activation/l2_pool.cuh", "common/vec.cuh"

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    # statistics and values
    Mutant("dists: distances from zero", "dists", MOMENTS,
           "widen(narrow<T>(sums.total(layer, kPartsOfBlock, z, channel) * share))", "Acc(0)", VALUES),
    Mutant("dists: origins before their sums are read", "dists", MOMENTS,
           "«__syncthreads();»  // the origins are there, and their sums no longer needed", "",
           f"{ORDER}|{VALUES}"),
    Mutant("dists: the last packs left out", "dists", MOMENTS, "«left > 0»;", "left > 1", VALUES),
    Mutant("dists: one target is a batch", "dists", DISTS, "place.n * layer.stride_y", "place.n * layer.stride_x",
           f"{MISALIGNED}|{VALUES}"),
    Mutant("dists: folded pixels forgotten", "dists", SUMS,
           "folded += layer.channels", "folded += layer.memory_channels", VALUES),
    Mutant("dists: lanes of other channels", "dists", SUMS, "distance = «lanes»;", "1", f"{VALUES}|{ORDER}"),
    Mutant("dists: units stored where no channel looks", "dists", SUMS,
           "&(*this)[column * kChannels + first]", "values + column * kChannels + first", VALUES,
           case="bfloat16 2 nhwc64"),
    Mutant("dists: units loaded from where none is stored", "dists", SUMS,
           "values + place(column * kChannels + first)", "values + column * kChannels + first", VALUES,
           case="bfloat16 2 nhwc64"),
    Mutant("dists: chunks run over the end", "dists", WALK, "min(layer.units - begin, layer.chunk)", "layer.chunk",
           f"{VALUES}|{MISALIGNED}"),
    Mutant("dists: one slot too few", "dists", MOMENTS, "«chunk < layer.chunks»;", "chunk + 1 < layer.chunks", VALUES),
    Mutant("dists: slots of the first sample", "dists", DISTS,
           "int64_t(group) * layer.chunks", "int64_t(place.group) * layer.chunks", f"{VALUES}|{ORDER}"),
    Mutant("dists: loss before all groups are there", "dists", DISTS,
           "table.arrivals + place.n, «table.groups»)", "1", f"{VALUES}|{ORDER}"),
    Mutant("dists: earlier launches forgotten", "dists", DISTS,
           "table.first_layer > 0 ? table.loss[n] : Acc(0)", "Acc(0)", VALUES),
    Mutant("dists: NaN has no variance", "dists", MOMENTS,
           "found < Acc(0) ? Acc(0) : found", "found > Acc(0) ? found : Acc(0)", VALUES, case="nhwc nan"),
    Mutant("dists: packs wherever maps begin", "dists", VEC,
           "reinterpret_cast<uintptr_t>(data) % sizeof(Pack<T>) == 0", "true", MISALIGNED),
    # gradient
    Mutant("dists backward: numbers of folded channels", "dists_backward", GRADIENT,
           "channel % layer.channels", "channel", VALUES),
    Mutant("dists backward: stride of the features", "dists_backward", GRADIENT,
           "place.n * layer.pixels * layer.channels + walk.first", "place.n * layer.stride_x + walk.first",
           f"{VALUES}|{GUARD}|{MISALIGNED}"),
    Mutant("dists backward: targets as features", "dists_backward", GRADIENT,
           "(x - y - mean[kError]) + ratio * (y - mean[kY])", "(x - y - mean[kError]) - ratio * (y - mean[kY])",
           VALUES),
    Mutant("dists backward: numbers before they are there", "dists_backward", GRADIENT,
           "«__syncthreads();»  // the block's numbers are there", "", f"{ORDER}|{VALUES}"),
    Mutant("dists backward: over the end", "dists_backward", GRADIENT, "if (i + j >= walk.packs) break;", "",
           f"{VALUES}|{GUARD}|{ORDER}"),
    # pooling
    Mutant("l2 pool: windows begin at their middle", "l2_pool", POOL, "(dx - 1) * int64_t(shape.channels)",
           "dx * int64_t(shape.channels)", VALUES),
    Mutant("l2 pool: the next row over the border", "l2_pool", POOL,
           "unsigned(2 * column + dx - 1) < unsigned(shape.width)",
           "unsigned(2 * column + dx - 1) <= unsigned(shape.width)", VALUES),
    Mutant("l2 pool: rows of one channel", "l2_pool", POOL, "(dy - 1) * line", "(dy - 1) * int64_t(shape.width)",
           f"{MISALIGNED}|{VALUES}"),
    Mutant("l2 pool: columns weigh nothing", "l2_pool", POOL, "dy % 2 + dx % 2", "dy % 2 * 2", VALUES),
    Mutant("l2 pool: samples side by side", "l2_pool", POOL, "«x + place.n * shape.stride_x + place.channel», shape",
           "x + place.n * shape.height * int64_t(shape.width) * shape.channels + place.channel", VALUES),
    Mutant("l2 pool: packs wherever maps begin", "l2_pool", VEC,
           "reinterpret_cast<uintptr_t>(data) % sizeof(Pack<T>) == 0", "true", MISALIGNED),
    Mutant("l2 pool backward: neighbours to the right forgotten", "l2_pool_backward", POOL,
           "neighbour <= kL2Rows + kL2Columns", "neighbour > kL2Rows && neighbour <= kL2Rows + kL2Columns", VALUES),
    Mutant("l2 pool backward: quotients before they are there", "l2_pool_backward", POOL,
           "«__syncthreads();»  // the quotients are there", "", f"{ORDER}|{VALUES}"),
    Mutant("l2 pool backward: windows below the map", "l2_pool_backward", POOL,
           "inside ? widen(upstream, k) * rsqrt(squares[k]) : Acc(0)", "rsqrt(squares[k])", VALUES),
    Mutant("l2 pool backward: the corner forgotten", "l2_pool_backward", POOL,
           "(below + corner)", "below", VALUES),
    Mutant("l2 pool backward: the window to the right twice", "l2_pool_backward", POOL,
           "of_channel[row + 1][column][place.unit]", "of_channel[row][column + 1][place.unit]", VALUES),
    Mutant("l2 pool backward: over the end of a row", "l2_pool_backward", POOL,
           "2 * place.column + dx >= shape.width", "2 * place.column + dx > shape.width", f"{VALUES}|{ORDER}|{GUARD}"),
]  # fmt: skip

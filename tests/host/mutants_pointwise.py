"""Seeded faults in the kernels of the feature loss and the total variation; see mutants.py."""

from __future__ import annotations

from host.mutants import ADDRESS, GUARD, MISALIGNED, ORDER, VALUES, Mutant

FEATURE, VARIATION = "feature_loss/feature_loss.cuh", "total_variation/total_variation.cuh"
FEATURE_LAUNCH, VARIATION_LAUNCH = "feature_loss/feature_loss.cu", "total_variation/total_variation.cu"
LAST_BLOCK = "common/last_block.cuh"

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    # sum of the blocks
    Mutant("sum: last block known before it is", "feature_loss", LAST_BLOCK,
           "}\n  «__syncthreads();»\n  return before", "", f"missing lanes|{ORDER}|{VALUES}"),
    Mutant("sum: slots in the order of arrival", "feature_loss_with_gradient", LAST_BLOCK,
           "slots[slot] = value", "slots[*counter] = value", ORDER),
    Mutant("sum: last slot left out", "total_variation", LAST_BLOCK, "i < count", "i + 1 < count", VALUES),
    Mutant("sum: last block but one", "total_variation", LAST_BLOCK,
           "before + 1 == expected", "before + 2 == expected", VALUES),
    # values of the feature loss
    Mutant("feature loss: chunk runs over the end of the sample", "feature_loss", FEATURE,
           "min(layer.size - first, kLossChunk<T>)", "kLossChunk<T>", VALUES),
    Mutant("feature loss: chunks overlap", "feature_loss", FEATURE,
           "chunk * kLossChunk<T>", "chunk * (kLossChunk<T> - kPackWidth<T>)", VALUES),
    Mutant("feature loss: packs over the end", "feature_loss", FEATURE,
           "count / kPackWidth<T> * kPackWidth<T>", "count", f"{MISALIGNED}|{VALUES}"),
    Mutant("feature loss: last elements again", "feature_loss", FEATURE,
           "inside ? point.value : Acc(0)", "point.value", VALUES),
    Mutant("feature loss: no tail", "feature_loss", FEATURE,
           "packed, «count», parameter", "packed", VALUES),
    Mutant("feature loss: one target is a batch", "feature_loss", FEATURE,
           "n * layer.stride_y", "n * layer.size", f"{MISALIGNED}|{VALUES}"),
    Mutant("feature loss: one block of the next layer", "feature_loss", FEATURE,
           "table.layers[l + 1].first_block <= blockIdx.x", "table.layers[l + 1].first_block < blockIdx.x",
           f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("feature loss: packs wherever maps begin", "feature_loss", FEATURE_LAUNCH,
           "reinterpret_cast<uintptr_t>(data) % sizeof(Pack<T>) == 0", "true", MISALIGNED),
    Mutant("feature loss: packs wherever samples begin", "feature_loss", FEATURE_LAUNCH,
           "stride % kPackWidth<T> == 0", "true", MISALIGNED),
    Mutant("feature loss: slots of the first sample", "feature_loss", FEATURE,
           "layer.first_block + n * layer.chunks", "layer.first_block", f"{VALUES}|{ORDER}"),
    Mutant("feature loss: loss before all layers are there", "feature_loss", FEATURE,
           "table.arrived + n, «table.first_layer + table.count»)", "1", f"{VALUES}|{ORDER}"),
    Mutant("feature loss: earlier launches forgotten", "feature_loss", FEATURE,
           "table.first_layer > 0 ? table.loss[n] : Acc(0)", "Acc(0)", VALUES),
    # gradient of the feature loss
    Mutant("feature loss gradient: stride of the features", "feature_loss_gradient", FEATURE,
           "layer.dx + n * layer.size", "layer.dx + n * layer.stride_x", f"{VALUES}|{GUARD}"),
    Mutant("feature loss gradient: over the end", "feature_loss_gradient", FEATURE,
           "kWantsGradient<kWanted> && inside", "kWantsGradient<kWanted>", f"{VALUES}|{GUARD}|{ORDER}"),
    Mutant("feature loss gradient: upstream of the first sample", "feature_loss_gradient", FEATURE,
           "table.grad[n]", "table.grad[0]", VALUES),
    Mutant("feature loss gradient: packs wherever gradients begin", "feature_loss_gradient", FEATURE_LAUNCH,
           "all(layer.dx, layer.size)", "true", MISALIGNED),
    # both
    Mutant("feature loss both: no values", "feature_loss_with_gradient", FEATURE,
           "if constexpr (kWantsValue<kWanted>) finish_loss(table, l, n, chunk, sum);",
           "if constexpr (kWanted == Wanted::kValue) finish_loss(table, l, n, chunk, sum);",
           VALUES),
    Mutant("feature loss both: the target as gradient", "feature_loss_with_gradient", FEATURE,
           "store_pack(dx + i, xs[j]);", "store_pack(dx + i, ys[j]);", VALUES),
    Mutant("feature loss both: unweighted", "feature_loss_with_gradient", FEATURE,
           "(layer.weight * layer.scale)", "layer.scale", VALUES),
    # values of the total variation
    Mutant("total variation: beyond the end of the row", "total_variation", VARIATION,
           "inside && i + k + strips.step < strips.length", "inside && i + k < strips.length", VALUES),
    Mutant("total variation: last row again", "total_variation", VARIATION,
           "point(«inside» && i + k", "true", VALUES),
    Mutant("total variation: rows read below the image", "total_variation", VARIATION,
           "max(0, min(row + r - 1, strips.height - 1))", "max(0, row + r - 1)", ADDRESS, configuration="address"),
    Mutant("total variation: images side by side", "total_variation", VARIATION,
           "x + n * stride_n", "x + n * size", VALUES),
    Mutant("total variation: one strip too many", "total_variation", VARIATION,
           "strip < strips.count", "strip <= strips.count", VALUES),
    Mutant("total variation: counted with the first image", "total_variation", VARIATION,
           "«arrived + n», all)", "arrived", f"{VALUES}|{ORDER}"),
    Mutant("total variation: packs of odd rows", "total_variation", VARIATION_LAUNCH,
           "rows.length % kWidth == 0", "true", f"{MISALIGNED}|{VALUES}"),
    Mutant("total variation: colours as grey", "total_variation", VARIATION_LAUNCH,
           "packed && rows.step == 1", "packed", VALUES),
    # gradient of the total variation
    Mutant("total variation gradient: the left element is the left pixel", "total_variation_gradient", VARIATION,
           "k - strips.step", "k - 1", VALUES),
    Mutant("total variation gradient: strips run into the next channel", "total_variation_gradient", VARIATION,
           "kWantsGradient<kWanted> && inside", "kWantsGradient<kWanted>", f"{VALUES}|{GUARD}|{ORDER}"),
    Mutant("total variation gradient: nothing from above", "total_variation_gradient", VARIATION,
           "up[k] = down.slope;", "", VALUES),
    Mutant("total variation gradient: stride of the image", "total_variation_gradient", VARIATION,
           "dx + n * size", "dx + n * stride_n", f"{VALUES}|{GUARD}"),
    Mutant("total variation gradient: packs wherever images begin", "total_variation_gradient", VARIATION_LAUNCH,
           "begins_packed(x) && begins_packed(dx)", "true", MISALIGNED),
    # both
    Mutant("total variation both: no values", "total_variation_with_gradient", VARIATION,
           "if (threadIdx.x == 0) values[n] = all;",
           "if (kWanted == Wanted::kValue && threadIdx.x == 0) values[n] = all;", VALUES),
    Mutant("total variation both: slopes of the next element", "total_variation_with_gradient", VARIATION,
           "slopes[k - kOut]", "slopes[k - 1]", VALUES),
    Mutant("total variation both: upstream of the first sample", "total_variation_with_gradient", VARIATION,
           "grad[n]", "grad[0]", VALUES),
]  # fmt: skip

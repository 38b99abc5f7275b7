"""Seeded faults in the kernel of LPIPS; see mutants.py."""

from __future__ import annotations

from host.mutants import GUARD, MISALIGNED, ORDER, VALUES, Mutant

KERNEL, LAUNCH = "lpips/lpips.cuh", "lpips/lpips.cu"
PIXEL, LANES, TILES = (f"lpips/{name}.cuh" for name in ("pixel", "lanes", "tiles"))

# name, launcher, file, what stands there, what the mutant says, how it shows
MUTANTS = [
    # one pixel
    Mutant("lpips: a direction for pixels without features", "lpips_gradient", PIXEL,
           "if (root == Acc(0)) return {Acc(0), Acc(0)};", "", VALUES),
    Mutant("lpips: eps in the direction of the length", "lpips_with_gradient", PIXEL,
           "«Acc(1) / root»}", "Acc(1) / (root + norm.outside)", VALUES, case="float32 nhwc x 2 (512"),
    Mutant("lpips: gradient by y of the other sign", "lpips_gradient", PIXEL,
           "of_y.radial * widen(y) * along.y - channel.pull", "channel.pull - of_y.radial * widen(y) * along.y",
           VALUES),
    Mutant("lpips: upstream of the first pixel", "lpips_map_gradient", PIXEL, "map_grad[pixel]", "map_grad[0]", VALUES),
    # pixels in lanes
    Mutant("lpips lanes: weights of the first pack", "lpips", LANES,
           "run.weights + lane * kWidth + j * step + k", "run.weights + lane * kWidth + k", VALUES),
    Mutant("lpips lanes: last pixel again", "lpips_with_gradient", LANES,
           "pixel < run.count ? held.along[u].distance : Acc(0)", "held.along[u].distance", VALUES),
    Mutant("lpips lanes: distance of one lane", "lpips_map", LANES,
           "lane_sums(distances, lanes);", "", VALUES),
    # tiles of pixels
    Mutant("lpips tiles: lengths before all warps have shared", "lpips", TILES,
           "share(1, y_squares);\n    «__syncthreads();»", "", f"{VALUES}|{ORDER}"),
    Mutant("lpips tiles: gradient of the last channels alone", "lpips_gradient", TILES,
           "walk.store_gradients(held);", "walk.store_gradients(true);", f"{VALUES}|{ORDER}"),
    Mutant("lpips tiles: channels after the last", "lpips_map_gradient", TILES,
           "if (!inside || channel >= run.channels) continue;", "if (!inside) continue;",
           f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("lpips tiles: pixels of packs in another order", "lpips_map", TILES,
           "number % Shape::kLanes * kWidth + number / Shape::kLanes", "number", f"{VALUES}|{ORDER}"),
    # blocks
    Mutant("lpips: run over the end of the sample", "lpips_with_gradient", KERNEL,
           "min(layer.pixels - first, int64_t(layer.run))", "layer.run", f"{VALUES}|{ORDER}|{GUARD}"),
    Mutant("lpips: one target is a batch", "lpips", KERNEL, "n * layer.stride_y", "n * size",
           f"{VALUES}|{MISALIGNED}"),
    Mutant("lpips: earlier launches forgotten", "lpips", KERNEL,
           "table.first_layer > 0 ? table.loss[n] : Acc(0)", "Acc(0)", VALUES),
    # launches
    Mutant("lpips: packs wherever weights begin", "lpips", LAUNCH,
           "(!nhwc || begins_packed<T>(layer.weights))", "true", MISALIGNED),
    Mutant("lpips: strides of exchanged maps", "lpips_gradient", LAUNCH,
           "std::swap(layer.stride_x, layer.stride_y);", "", f"{VALUES}|{MISALIGNED}"),
]  # fmt: skip

"""`make launches`: what one call of a loss launches on a GPU, counted on the CPU, in bench/results/launches.csv.

The operations of a call are those of a GPU: bias with the ReLU, convolutions by cuDNN. `OPERATORS` says what each
operator of ours launches, as tests/test_launches.py reads it from csrc; one of torch's is one launch, unless it only
looks at memory in another way, or makes some. It is a count of what is asked for: a convolution of cuDNN may be more
than one kernel, and none is timed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from perceptual_ops import LPIPS, PerceptualLoss
from perceptual_ops.engine import convolution, joined_runs, metric_head, perceptual_head, stages
from perceptual_ops.engine.custom_op import TrunkInput

from . import cubins, tables

TABLE = cubins.ROOT / "bench/results/launches.csv"
COLUMNS = ("call", "dtype", "operator", "calls", "launches")
ZEROS = "new_zeros"  # a launch of torch's
# Operators of ours that are made of others, or of none.
MADE_OF_OTHERS = ("perceptual_loss", "metric_loss")
OPERATORS: dict[str, Sequence[str]] = {
    "normalize_images": ["launch_normalize"],
    "normalize_images_backward": ["launch_normalize_backward"],
    "bias_relu_": ["launch_bias_relu"],
    "bias_relu_backward_": ["launch_bias_relu_backward"],
    "bias_relu_pool": ["launch_bias_relu_pool"],
    "bias_relu_pool_": ["launch_bias_relu_pool_in_place"],
    "bias_relu_pool_backward_": ["launch_bias_relu_pool_backward"],
    "loss_scale": ["launch_loss_scale"],
    "style_loss": ["launch_gram_sums", "launch_style_finish"],
    "style_loss_backward": ["launch_narrow", "launch_gram_gradient"],
    "channel_statistics": [ZEROS, "launch_channel_statistics"],
    "channel_statistics_backward": ["launch_channel_statistics_backward"],
    "lpips_distance": [ZEROS, "launch_lpips"],
    "lpips_map": [ZEROS, "launch_lpips"],
    "lpips_distance_with_gradient": [ZEROS, "launch_lpips"],
    "feature_loss": [ZEROS, "launch_feature_loss"],
    "feature_loss_with_gradient": [ZEROS, "launch_feature_loss"],
}
CONVOLUTION = "convolution"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def launches_of(name: str, arguments: Sequence[Any]) -> int:
    """What a call of an operator of ours launches."""
    launches = list(OPERATORS[name])
    if name == "lpips_map":  # no sums
        launches.remove(ZEROS)
    if name == "bias_relu_pool_" and (arguments[2] == "blur" or list(arguments[3:5]) != [2, 2]):  # two passes
        launches += ["launch_bias_relu", "launch_bias_relu_pool"]
        launches.remove("launch_bias_relu_pool_in_place")
    if name == "style_loss_backward" and arguments[1][0].element_size() > 2:
        launches.remove("launch_narrow")
    return len(launches)


class Launches(TorchDispatchMode):
    """Counts calls and launches by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    @property
    def beside_convolutions(self) -> int:
        return self.launches.total() - self.launches[CONVOLUTION]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:  # what is made of other operations
            results = func.decompose(*args, **(kwargs or {}))
        if results is not NotImplemented:
            return results
        results = func(*args, **(kwargs or {}))
        namespace, _, name = func._schema.name.partition("::")
        if namespace == "perceptual_ops" and name not in MADE_OF_OTHERS:
            count = launches_of(name, args)
        else:
            count = int(namespace == "aten" and _writes(func, results))
        if count:
            self.calls[name] += 1
            self.launches[name] += count
        return results


def _writes(func: Any, results: Any) -> bool:
    """Whether an operator of torch's writes anything."""
    if func.is_view or func._schema.name.rpartition("::")[2] in ("empty", "new_empty", "empty_like", "empty_strided"):
        return False
    return any(isinstance(x, Tensor) and x.numel() for x in tree_leaves(results))


@contextmanager
def as_on_a_gpu(counted: Launches) -> Iterator[None]:
    """The lean engine makes its calls as on a GPU, and they are counted within its operators, too."""

    def run(trunk_input: TrunkInput, call: Callable[..., Any], *arguments: Any) -> Any:
        with counted:
            return call(*arguments)

    with (
        mock.patch.object(stages, "bias_is_a_pass", lambda device: True),
        mock.patch.object(perceptual_head, "launches_cost", lambda device: True),
        mock.patch.object(metric_head, "launches_cost", lambda device: True),
        mock.patch.object(joined_runs, "launches_cost", lambda device: True),
        mock.patch.object(stages, "launches_cost", lambda device: True),
        mock.patch.object(convolution, "_has_blocks", lambda weight: False),
        mock.patch.object(TrunkInput, "run", run),
    ):
        yield


def johnson_style(dtype: torch.dtype, fresh: bool) -> Launches:
    """Of pytorch/examples' loss and its gradient, of one image: the content target is an image, or kept."""
    counted = Launches()
    output, target, style = torch.rand(3, 1, 3, 32, 32).unbind()
    output.requires_grad_()
    with as_on_a_gpu(counted):
        loss = PerceptualLoss.preset("johnson-style", weights="random", compute_dtype=dtype)
        loss.set_style(style)
        if not fresh:
            loss.set_content(target)
        with counted:
            torch.autograd.grad(loss(output, target if fresh else None), output)
    return counted


def lpips(dtype: torch.dtype) -> Launches:
    """Of LPIPS with its VGG16 and its gradient, of one pair."""
    counted = Launches()
    output, target = torch.rand(2, 1, 3, 32, 32).unbind()
    output.requires_grad_()
    with as_on_a_gpu(counted):
        loss = LPIPS("vgg16", weights="random", compute_dtype=dtype, reduction="mean")
        with counted:
            torch.autograd.grad(loss(output, target), output)
    return counted


CALLS: dict[str, Callable[[torch.dtype], Launches]] = {
    "johnson-style, fresh target": lambda dtype: johnson_style(dtype, True),
    "johnson-style, kept targets": lambda dtype: johnson_style(dtype, False),
    "LPIPS, vgg16": lpips,
}


def rows() -> list[dict[str, str]]:
    """The table, with a sum below the operators of each call."""
    found = []
    for call, count in CALLS.items():
        for dtype in DTYPES:
            counted = count(dtype)
            names = sorted(counted.launches, key=lambda name: (name == CONVOLUTION, -counted.launches[name], name))
            rows = [(name, counted.calls[name], counted.launches[name]) for name in names]
            rows.append(("all but convolutions", sum(n for name, n, _ in rows if name != CONVOLUTION),
                         counted.beside_convolutions))  # fmt: skip
            head = call, str(dtype).removeprefix("torch.")
            found += [dict(zip(COLUMNS, map(str, (*head, *row)), strict=True)) for row in rows]
    return found


def main() -> None:
    table = rows()
    tables.write(TABLE, table)
    for row in table:
        if row["operator"] == "all but convolutions":
            print(f"{row['call']:30} {row['dtype']:9} {row['launches']:>4} launches beside convolutions")


if __name__ == "__main__":
    main()

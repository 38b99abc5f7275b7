"""Settings as arguments of an operator: what is decoded is what was encoded, and the schema says it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from perceptual_ops.engine.custom_op import TrunkInput
from perceptual_ops.engine.input_size import InputSize
from perceptual_ops.engine.metric_op import MetricSettings
from perceptual_ops.engine.operator_settings import OperatorSettings
from perceptual_ops.engine.terms import Part, Terms


@dataclass(frozen=True)
class Every(OperatorSettings):
    """A field of every type."""

    name: str
    part: Part
    flag: bool
    count: int
    number: float
    dtype: torch.dtype
    tensor: Tensor
    numbers: tuple[float, ...]
    names: tuple[str, ...]
    other: Part


PART = Part(("relu1_1", "pool1"), (0.5, 2.0), "mse", 0.0)
NONE = Part((), (), "huber", 0.5)
SETTINGS = [
    TrunkInput("vgg16/0", torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1), torch.bfloat16, 2, InputSize.of_images()),
    InputSize(8, 9, "random_crop", torch.tensor([1, 2])),
    Terms(PART, NONE, "chw", 0.25),
    MetricSettings(("image", "relu1"), "lpips", 1e-10, True),
    Every("x", PART, True, 3, 0.1, torch.float64, torch.ones(2), (), ("one",), NONE),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: type(settings).__name__)
def test_settings_survive_the_way_into_an_operator(settings: OperatorSettings) -> None:
    received: list[object] = []

    def take(*arguments: object) -> Tensor:
        received.extend(arguments)
        return torch.ones(1)

    name = f"perceptual_ops_tests::take_{type(settings).__name__}"
    operator = torch.library.custom_op(name, take, mutates_args=(), schema=f"({settings.schema()}) -> Tensor")
    operator(*settings.encoded())
    arguments = iter(received)
    assert type(settings).decoded(arguments) == settings
    assert next(arguments, "no more") == "no more"


def test_names_of_arguments() -> None:
    assert Terms.schema().startswith("str content_layers, float[] content_weights, str content_distance, float ")


def test_type_that_operators_do_not_take() -> None:
    @dataclass(frozen=True)
    class Odd(OperatorSettings):
        layers: set

    with pytest.raises(TypeError, match=r"Odd.layers: expected a type of .*, got <class 'set'>"):
        Odd.schema()

"""The options of the engine, which every loss and drop-in takes alike."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from peer_torchvision import import_torchvision
from torch import nn
from typing_extensions import Unpack

import perceptual_ops as po
from perceptual_ops.compat import basicsr, dists, lpips, lpips_pytorch, piq, piqa, taming
from perceptual_ops.losses import EngineOptions
from perceptual_ops.losses.perceptual_settings import PerceptualArguments

import_torchvision()  # before ours looks for torchmetrics, see test_compat_torchmetrics
torchmetrics = importlib.import_module("perceptual_ops.compat.torchmetrics")

OPTIONS = {
    "compute_dtype": torch.bfloat16,
    "chunk_size": 3,
    "tile_size": "auto",
    "engine": "autograd",
    "backend": "reference",
    "cuda_graphs": True,
}
CLASSES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    po.PerceptualLoss: partial(po.PerceptualLoss, "vgg11", weights="random", content_layers=["relu1_1"]),
    po.LPIPS: partial(po.LPIPS, weights="random"),
    po.DISTS: partial(po.DISTS, weights="random"),
    basicsr.PerceptualLoss: partial(basicsr.PerceptualLoss, {"relu1_1": 1.0}, weights="random"),
    dists.DISTS: partial(dists.DISTS, weights="random"),
    lpips.LPIPS: partial(lpips.LPIPS, weights="random"),
    lpips_pytorch.LPIPS: partial(lpips_pytorch.LPIPS, weights="random"),
    piq.ContentLoss: partial(piq.ContentLoss, layers=["relu1_1"], network_weights="random"),
    piq.StyleLoss: partial(piq.StyleLoss, layers=["relu1_1"], network_weights="random"),
    piq.LPIPS: partial(piq.LPIPS, weights="random"),
    piq.DISTS: partial(piq.DISTS, weights="random"),
    piqa.LPIPS: partial(piqa.LPIPS, weights="random"),
    taming.LPIPS: partial(taming.LPIPS, weights="random"),
    torchmetrics.LearnedPerceptualImagePatchSimilarity: partial(
        torchmetrics.LearnedPerceptualImagePatchSimilarity, weights="random"
    ),
    torchmetrics.DeepImageStructureAndTextureSimilarity: partial(
        torchmetrics.DeepImageStructureAndTextureSimilarity, weights="random"
    ),
}
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")


def holder(made: nn.Module) -> nn.Module:
    """What has the options as attributes: torchmetrics' metrics leave them to their network."""
    return getattr(made, "net", made) if hasattr(made, "update") else made


@every_class
def test_options_hold(kind: type[nn.Module]) -> None:
    loss = holder(CLASSES[kind](**OPTIONS))
    assert {name: getattr(loss, name) for name in OPTIONS} == OPTIONS


@every_class
def test_signature_says_the_options_and_their_defaults(kind: type[nn.Module]) -> None:
    signature = inspect.signature(kind)
    loss = holder(CLASSES[kind]())
    for name in EngineOptions.__annotations__:
        assert signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert signature.parameters[name].default == getattr(loss, name)


@every_class
def test_help_says_what_the_options_are(kind: type[nn.Module]) -> None:
    text = pydoc.plain(pydoc.render_doc(kind))
    constructor = text[text.index(" __init__(") :]
    for line in (EngineOptions.__doc__ or "").splitlines():
        assert line.strip() in constructor
    assert all(f"{name}:" in (EngineOptions.__doc__ or "") for name in EngineOptions.__annotations__)


@every_class
def test_unknown_keyword(kind: type[nn.Module]) -> None:
    if hasattr(kind, "update"):  # whose other keywords are torchmetrics', which may be installed
        with pytest.raises((TypeError, ValueError), match="chunks"):
            CLASSES[kind](chunks=2)
        return
    owner, own = kind.__init__.__qualname__.split(".")[0], next(iter(inspect.signature(kind).parameters))
    message = (
        rf"chunks: expected an argument of {owner} \({own}, .*\) or an option of its engine "
        r"\(compute_dtype, chunk_size, tile_size, engine, backend, cuda_graphs\), got an unknown name"
    )
    with pytest.raises(TypeError, match=message):
        CLASSES[kind](chunks=2)


@pytest.mark.parametrize("kind", [lpips.LPIPS, piqa.LPIPS, piq.LPIPS, dists.DISTS, basicsr.PerceptualLoss])
def test_arguments_of_the_loss_within_are_none_of_a_drop_in(kind: type[nn.Module]) -> None:
    with pytest.raises(TypeError, match="input_range: expected an argument of"):
        CLASSES[kind](input_range=(0.0, 255.0))


def test_options_have_types_that_programs_can_read() -> None:
    assert get_type_hints(po.LPIPS.__init__)["options"] == Unpack[EngineOptions]


def test_a_preset_may_be_given_every_argument() -> None:
    """By the types of the constructor, for checkers."""
    taken = get_type_hints(po.PerceptualLoss.__init__) | get_type_hints(EngineOptions)
    assert get_type_hints(PerceptualArguments) == {
        name: taken[name] for name in inspect.signature(po.PerceptualLoss).parameters
    }


def test_dtype_by_its_name() -> None:
    loss = CLASSES[po.LPIPS](compute_dtype="float16")
    assert loss.compute_dtype == torch.float16


def test_options_are_spelled_once() -> None:
    package = Path(po.__file__).parent
    for path in sorted([*(package / "losses").glob("*.py"), *(package / "compat").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                spelled = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)} & OPTIONS.keys()
                # An operator alone has a backend, and what is no loss over a network a chunk size.
                assert len(spelled) < 2, f"{path.name}: line {node.lineno} spells {spelled}"

"""What an installed perceptual_ops can do, a line a step: run by check_install.py in an environment made for it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

# README's loop trains a network of the reader's own, on a GPU, with weights that are downloaded.
READERS = """
import torch
torch.manual_seed(0)
device = "cpu"
model = torch.nn.Conv2d(3, 3, 3, padding=1)
optimizer = torch.optim.Adam(model.parameters())
loader = [(torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48)) for _ in range(2)]
before = model.weight.detach().clone()
"""
HERE = {'"vgg16", ': '"vgg16", weights="random", '}


def imports(form: str) -> str:
    """The library of this environment, with compiled operators where its form and torch have them."""
    import perceptual_ops as po
    from perceptual_ops._native import LEAST_TORCH, native

    assert po.__file__.startswith(sys.prefix), f"{po.__file__} is not of {sys.prefix}"
    recent = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2]) >= LEAST_TORCH
    assert native.loaded == (form == "compiled" and recent), native.reason or "the compiled operators are loaded"
    return f"torch {torch.__version__}, {native.reason or native.build_info['compiler']}"


def first_example(readme: Path) -> str:
    """README's first example, in which a network learns."""
    code = re.findall(r"```python\n(.*?)```", readme.read_text("utf-8"), re.DOTALL)[0]
    for written, run in HERE.items():
        assert code.count(written) == 1, f"README's first example has {written!r} {code.count(written)} times"
        code = code.replace(written, run)
    names: dict[str, Any] = {}
    exec(compile(READERS + code, "README.md", "exec"), names)
    assert names["loss"].isfinite() and not torch.equal(names["before"], names["model"].weight)
    return f"loss {names['loss']:.4f}"


def made(**options: Any) -> Any:
    import perceptual_ops as po

    torch.manual_seed(0)
    return po.PerceptualLoss("vgg16", weights="random", content_layers=["relu1_2", "relu2_2"], **options)


def gradient(loss: Any, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of images (N, 3, H, W), after one call."""
    images = images.clone().requires_grad_()
    loss(images, target).backward()
    assert images.grad is not None
    return images.grad


def bytes_saved(loss: Any, images: torch.Tensor, target: torch.Tensor) -> int:
    """What autograd keeps for the backward."""
    saved = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(images.clone().requires_grad_(), target)
    return sum(saved)


def engine(images: torch.Tensor, target: torch.Tensor) -> str:
    """The lean engine gives autograd's gradient and keeps about as much as the gradient takes."""
    lean, plain = made(), made(engine="autograd")
    torch.testing.assert_close(gradient(lean, images, target), gradient(plain, images, target))
    kept, whole = (bytes_saved(loss, images, target) for loss in (lean, plain))
    assert kept <= 2 * images.nbytes < whole, f"{kept} bytes kept for {images.nbytes} of images, {whole} by autograd"
    return f"1/{whole // kept} of autograd's memory"


def compiles(images: torch.Tensor, target: torch.Tensor) -> str:
    if not any(map(shutil.which, ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++"))):
        return "no compiler of C++, which torch.compile needs"
    loss = made()
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(gradient(compiled, images, target), gradient(loss, images, target))
    return "the same gradient"


def main(form: str, readme: str) -> None:
    print("import:", imports(form), flush=True)
    print("loss + gradient:", first_example(Path(readme)), flush=True)
    images, target = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    print("engine:", engine(images, target), flush=True)
    print("compile:", compiles(images, target), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

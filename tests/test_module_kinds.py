"""Modules of unusual kinds on the lean engine."""

from __future__ import annotations

import pytest
import torch
from placement import placed
from test_module_trunk import Counted, Held, Residual, close, images, make, value_and_gradients
from torch import Tensor, nn

import perceptual_ops as po
from perceptual_ops.engine.input_size import InputSize

pytestmark = pytest.mark.usefixtures("on_device")


class Named(Residual):
    """Returns an entry that is called like a submodule and is another tensor."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"stem": torch.relu(self.stem(x)), "mix": self.mix(torch.relu(self.stem(x)))}


@pytest.mark.parametrize("engine", ["lean", "autograd"])
def test_a_name_is_one_tensor_whatever_is_asked_for_beside_it(engine: str) -> None:
    loss = make(Named(), content_layers=["stem"], style_layers=["norm"], tv_weight=0.0, engine=engine)
    x = images(2, dtype=torch.float32)
    with pytest.raises(ValueError, match="layer 'norm': expected a submodule that runs"):
        loss(x, x, x[:1])
    loss = make(Named(), content_layers=["stem"], style_layers=["mix", "head"], tv_weight=0.0, engine=engine)
    loss.style_layers = ["mix"]
    assert loss(x, x, x).max() < 1e-12  # a Gram's rounding


def test_a_gradient_that_grows_on_its_way_does_not_overflow_in_fp16() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 14, 16), nn.Linear(16, 512))
    with torch.no_grad():  # features of a usual size, by way of small ones whose gradient is large
        network[1].weight.mul_(1e-3)
        network[1].bias.zero_()
        network[2].weight.mul_(1e5)
    settings = {"content_layers": ["output"], "style_layers": None, "tv_weight": 0.0}
    half, exact = (make(network, compute_dtype=dtype, **settings) for dtype in (torch.float16, torch.float32))
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    close(value_and_gradients(half, x, y), value_and_gradients(exact, x, y), 0.1)


def test_a_chunk_is_of_the_size_in_which_images_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perceptual_ops.engine.batching.SMALL_MAPS_CPU_PIXELS", 32 * 32)
    monkeypatch.setattr("perceptual_ops.engine.batching.GPU_PIXELS", 32 * 32)
    Held.alive = Held.most = 0
    loss = placed(po.PerceptualLoss(Counted(), content_layers=["output"], input_size=32))
    x = images(6, dtype=torch.float32).requires_grad_()
    loss(x, images(6, 1, dtype=torch.float32))
    assert Held.most == 1


def test_features_of_a_chain_have_the_shape_of_its_size() -> None:
    from perceptual_ops.engine import perceptual_op

    loss = placed(po.PerceptualLoss("vgg11", weights="random", content_layers=["relu2_1"], input_size=16))
    trunk_input = loss.trunk_input(images(1), InputSize(16, 16, "bilinear"))
    x = images(2, size=30, dtype=torch.float32)
    torch.library.opcheck(perceptual_op._trunk_features, (x, *trunk_input.encoded(), "relu2_1"))


class Score(Residual):
    """Makes a gradient of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = super().forward(x).square().sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


def test_a_module_may_make_gradients_of_its_own() -> None:
    lean, autograd = (
        make(Score(), content_layers=["output"], style_layers=None, engine=e) for e in ("lean", "autograd")
    )
    autograd.replace_network_weights(lean.frozen_network.state_dict())
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    found, expected = (value_and_gradients(lambda x, loss=loss: loss(x, y), x) for loss in (lean, autograd))
    close(found, expected, 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(lean(x, y), expected[0])


class Caching(Residual):
    """Derives something in its first call and keeps it."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.ones(1, 3, 1, 1, device=x.device, dtype=x.dtype) * 2
        return super().forward(x * self.kept)


def test_what_a_module_keeps_of_a_call_in_inference_mode_serves_in_training() -> None:
    loss = make(Caching(), style_layers=None)
    x, y = images(2, dtype=torch.float32), images(2, 1, dtype=torch.float32)
    with torch.inference_mode():
        expected = loss(x, y)
    value, gradient, _ = value_and_gradients(loss, x, y)
    torch.testing.assert_close(value, expected)
    assert gradient.any()


class Filters(nn.Module):
    """No parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.linspace(-1, 1, 27, dtype=torch.float64).view(1, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel)


def test_a_module_of_buffers_alone_has_their_dtype() -> None:
    lean, autograd = (
        make(Filters(), content_layers=["output"], style_layers=None, engine=e) for e in ("lean", "autograd")
    )
    found, expected = (value_and_gradients(loss, images(2), images(2, 1)) for loss in (lean, autograd))
    assert found[0].dtype == torch.float64
    close(found, expected)


def test_a_module_that_cannot_be_copied_is_refused_by_a_sentence() -> None:
    network = placed(torch.nn.utils.weight_norm(nn.Conv2d(3, 4, 3)))
    network(images(1, dtype=torch.float32))
    with pytest.raises(
        ValueError, match=r"network: expected a module that can be copied, Conv2d keeps weights .* use torch"
    ):
        po.PerceptualLoss(network, content_layers=["output"])


def test_the_number_of_dropped_tokens_can_be_read() -> None:
    assert make(Residual(), drop_tokens=2).drop_tokens == 2
    assert po.PerceptualLoss("vgg11", weights="random").drop_tokens == 0

"""The training recipes: what they minimise, the models they leave, and what they refuse."""

import pytest
import torch
from tiny_training import TINY, Stop, write_pictures
from torch.optim.optimizer import register_optimizer_step_pre_hook

from perceptual_ops.images import write_image
from perceptual_ops.recipes import TrainingOptions, load_model, train_style, train_super_resolution
from perceptual_ops.recipes.feed_forward import _log_mean, training_crops, training_loss
from perceptual_ops.recipes.training_log import read_log
from perceptual_ops.recipes.transform_net import StyleNet

STYLE_LAYERS = {"content_layers": ["relu2_2"], "style_layers": ["relu1_1", "relu2_2"]}


pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures")


@pytest.mark.parametrize("network", [None, "tiny_training:Tiny"])
def test_style_model(pictures, tmp_path, network):
    style = torch.rand(1, 3, 40, 36, generator=torch.Generator().manual_seed(1))
    options = TrainingOptions(steps=3, batch=2, size=32)
    out = tmp_path / "model.safetensors"
    train_style(style, pictures, out, weights="random", network=network, options=options, **STYLE_LAYERS)
    rows = read_log(out.with_suffix(".log.csv"))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(rows[0]["content"] + rows[0]["style"] + rows[0]["tv"], rel=1e-5)
    assert not out.with_suffix(".checkpoint").exists()
    model = load_model(out, network=network)
    assert (model.kind, model.scale) == ("style", 1)
    for shape in [(1, 3, 61, 43), (3, 3, 32, 90)]:
        images = torch.rand(shape)
        result = model(images)
        assert result.shape == shape and result.min() >= 0 and result.max() <= 1


def test_a_style_is_learned_from_all_pictures_alike(pictures, tmp_path):
    """The geometric mean: a picture whose loss is a hundred times another's has no more to say."""
    style = torch.rand(1, 3, 40, 36, generator=torch.Generator().manual_seed(1))
    options = TrainingOptions(steps=1, batch=3, size=32)
    found = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: found.extend(one.grad.clone() for one in optimizer.param_groups[0]["params"])
    )
    train_style(style, pictures, tmp_path / "model.safetensors", weights="random", options=options, **STYLE_LAYERS)
    hook.remove()
    torch.manual_seed(options.seed)
    net = StyleNet(style=style).to(memory_format=torch.channels_last)
    crops = training_crops(pictures, options)
    criterion = training_loss(crops, style, weights="random", **STYLE_LAYERS)
    wanted = [torch.zeros_like(parameter) for parameter in net.parameters()]
    for i in range(options.batch):
        loss = criterion(net(crops[i][None]), crops[i][None]).squeeze()
        for total, one in zip(wanted, torch.autograd.grad(loss, net.parameters()), strict=True):
            total += one / (options.batch * loss.detach())
    moved = [number for number, one in enumerate(wanted) if one.abs().max() > 0]
    assert len(moved) >= 2  # the last layer is zero at first and hides all before it
    for number in moved:
        error = (found[number] - wanted[number]).norm() / wanted[number].norm()
        assert error < 1e-4


def test_a_perfect_picture_has_no_say():
    losses = torch.tensor([0.0, 2.0], requires_grad=True)
    _log_mean(losses).backward()
    assert losses.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("loss", ["pixel", "feature", "combined"])
def test_super_resolution_model(pictures, tmp_path, loss):
    out = tmp_path / "model.safetensors"
    options = TrainingOptions(steps=3, batch=2, size=32)
    train_super_resolution(pictures, out, scale=2, loss=loss, weights="random", options=options)
    rows = read_log(out.with_suffix(".log.csv"))
    parts = {"pixel": ["pixel"], "feature": ["feature"], "combined": ["pixel", "feature"]}[loss]
    assert set(rows[0]) == {"step", "seconds", "loss", *parts}
    # Training starts at the bicubic enlargement, whose loss is 1 by definition; the batch is not the examples.
    assert all(0.3 < rows[0][part] < 3 for part in parts)
    model = load_model(out)
    assert (model.kind, model.scale) == ("super-resolution", 2)
    assert model(torch.rand(2, 3, 17, 30)).shape == (2, 3, 34, 60)


def test_weights_decide_the_curve(pictures, tmp_path):
    options = TrainingOptions(steps=2, batch=2, size=32, save_every=1)

    def stop(done, numbers):
        if done == 2:  # after the checkpoint of the first
            raise Stop

    common = {"scale": 2, "options": options}
    with pytest.raises(Stop):
        train_super_resolution(pictures, tmp_path / "model.safetensors", weights="random", on_step=stop, **common)
    with pytest.raises(ValueError, match="its weights is"):
        train_super_resolution(pictures, tmp_path / "model.safetensors", weights="stlpips", **common)


def test_flat_pictures_have_nothing_to_restore(tmp_path):
    (tmp_path / "flat").mkdir()
    write_image(tmp_path / "flat" / "flat.png", torch.zeros(3, 40, 40))
    with pytest.raises(ValueError, match="expected some that a bicubic enlargement blurs"):
        train_super_resolution([tmp_path / "flat" / "flat.png"], tmp_path / "m.safetensors", loss="pixel", options=TINY)


def test_networks_that_do_not_fit(pictures, tmp_path):
    options = TrainingOptions(steps=1, batch=2, size=32)
    common = {"weights": "random", "options": options, "loss": "pixel"}
    for module, error, sentence in [
        ("tiny_training:Tiny", ValueError, r"expected images \(1, 3, 32, 32\) from images \(1, 3, 16, 16\)"),
        ("tiny_training", ValueError, "expected package.module:name"),
        ("tiny_training:Missing", ValueError, "has no such 'Missing'"),
        ("nowhere:Tiny", ModuleNotFoundError, "is its folder on PYTHONPATH"),
        ("tiny_training:run", ValueError, "without arguments"),
        ("tiny_training:TINY", ValueError, "has no such 'TINY'"),
    ]:
        with pytest.raises(error, match=sentence):
            train_super_resolution(pictures, tmp_path / "model.safetensors", scale=2, network=module, **common)
    with pytest.raises(ValueError, match="size: expected a multiple of the scale 8, got 36"):
        train_super_resolution(pictures, tmp_path / "m.safetensors", scale=8, options=TrainingOptions(size=36))
    with pytest.raises(ValueError, match="scale: expected 2, 4, 8, got 3"):
        train_super_resolution(pictures, tmp_path / "m.safetensors", scale=3, options=options)

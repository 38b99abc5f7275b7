"""The style transfer recipe, its report, and the training loop that users copy."""

import pytest
import torch
from PIL import Image

from examples import training_loop
from perceptual_ops import PerceptualLoss, load_network
from perceptual_ops.networks.feature_network import IMAGENET_MEAN
from perceptual_ops.recipes import style_transfer_loss, stylize, stylize_coarse_to_fine
from perceptual_ops.recipes.optimization import minimize_with_adam, minimize_with_lbfgs
from perceptual_ops.recipes.report import contact_sheet, loss_curve

LAYERS = {"content_layers": ("relu2_2",), "style_layers": ("relu1_1", "relu2_2")}


@pytest.fixture
def pictures():
    """Coarse blocks, and dark, fine stripes of another size."""
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, 5, 6, generator=generator).repeat_interleave(5, 2).repeat_interleave(5, 3)
    stripes = (torch.arange(28) % 2).expand(1, 3, 20, 28) * torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    return content, stripes.contiguous()


@pytest.fixture
def loss(pictures):
    return style_transfer_loss(*pictures, weights="random", **LAYERS)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("init", ["content", "noise"])
def test_the_loss_falls(pictures, loss, optimizer, init):
    result = stylize(*pictures, loss=loss, steps=25, optimizer=optimizer, init=init)
    assert result.image.shape == pictures[0].shape
    assert result.image.min() >= 0 and result.image.max() <= 1
    style = result.history["style"]
    assert style[-1] < 0.6 * style[0]
    assert result.history["loss"][-1] < 0.6 * result.history["loss"][0]
    # The picture that is returned is as good as the history says.
    assert float(loss(result.image)) <= 1.01 * result.history["loss"][-1]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_layout_of_the_content_is_the_callers(pictures, loss, optimizer):
    content, style = (picture.to(memory_format=torch.channels_last) for picture in pictures)
    result = stylize(content, style, loss=loss, steps=2, optimizer=optimizer)
    expected = stylize(*pictures, loss=loss, steps=2, optimizer=optimizer)
    torch.testing.assert_close(result.image, expected.image, rtol=0, atol=1e-4)


def test_adam_brings_back_a_pixel_that_overshot():
    image = torch.full((1, 3, 2, 2), 0.1, requires_grad=True)

    def objective():  # its gradient is 0 out of range, as that of the clamp in stylize
        image.grad = None
        (image.clamp(0, 1) - 0.9).square().sum().backward()

    minimize_with_adam(objective, image, steps=60, lr=0.5)
    assert torch.allclose(image, torch.tensor(0.9), atol=0.02)


def test_lbfgs_does_not_mind_tiny_gradients():
    image = torch.full((1, 3, 2, 2), 0.1, requires_grad=True)

    def objective():
        image.grad = None
        value = 5e-8 * (image - 0.9).square().sum()
        value.backward()
        return value

    minimize_with_lbfgs(objective, image, steps=60)
    assert torch.allclose(image, torch.tensor(0.9), atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_seed_gives_the_same_bits(pictures, loss, optimizer):
    def run(seed):
        return stylize(*pictures, loss=loss, steps=5, optimizer=optimizer, init="noise", seed=seed).image

    torch.manual_seed(1)
    first = run(3)
    torch.manual_seed(2)  # the global random numbers do not matter
    assert torch.equal(first, run(3))
    assert not torch.equal(first, run(4))


def test_inputs_are_left_alone(pictures, loss):
    copies = [picture.clone() for picture in pictures]
    stylize(*pictures, loss=loss, steps=2, optimizer="adam")
    assert all(torch.equal(*pair) for pair in zip(pictures, copies, strict=True))


def test_the_start_has_the_palette_of_the_style(pictures, loss):
    content, style = pictures
    style = 0.3 * style + 0.4  # mild enough that nothing is clamped
    start = stylize(content, style, loss=loss, steps=1, optimizer="adam", snapshots_at=[0]).snapshots[0]
    assert torch.allclose(start.mean((2, 3)), style.mean((2, 3)), atol=1e-5)
    assert torch.allclose(start.std((2, 3)), style.std((2, 3)), atol=1e-3)


def test_history_snapshots_and_steps_count_evaluations(pictures, loss):
    seen = []
    result = stylize(
        *pictures, loss=loss, steps=4, optimizer="adam", snapshots_at=(0, 3), on_step=lambda *step: seen.append(step)
    )
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert [terms["loss"] for _, terms in seen] == result.history["loss"]
    assert {"content", "style", "tv", "style/relu1_1"} <= result.history.keys()
    assert list(result.snapshots) == [0, 3]
    for step, image in result.snapshots.items():
        assert float(loss(image)) == pytest.approx(result.history["loss"][step], rel=1e-4)


def test_terms_are_relative(pictures):
    """0 for a perfect match; the weight itself for ImageNet's mean, which a network without biases maps to nothing."""
    content, style = pictures
    loss = style_transfer_loss(content, style, weights="random", style_weight=10.0, **LAYERS)
    loss.set_content(content)
    loss.set_style(style)
    _, terms = loss(content, return_terms=True)
    assert float(terms["content"]) == pytest.approx(0, abs=1e-6)
    _, terms = loss(content, style=content, return_terms=True)
    assert float(terms["style"]) == pytest.approx(0, abs=1e-6)
    nothing = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1).expand_as(content)
    _, terms = loss(nothing, return_terms=True)
    assert float(terms["content"]) == pytest.approx(1.0, rel=1e-4)
    assert float(terms["style"]) == pytest.approx(10.0, rel=1e-4)


def test_a_network_with_larger_features_weighs_the_same(pictures):
    terms = []
    for scale in (1.0, 100.0):
        weights = load_network("vgg16", "random", layers=["relu2_2"]).state_dict()
        weights["conv1_1.weight"] *= scale  # the biases are 0, so that every feature grows with it
        loss = style_transfer_loss(*pictures, weights=weights, **LAYERS)
        terms.append(stylize(*pictures, loss=loss, steps=1, optimizer="adam").history)
    for name in ("content", "style", "tv"):
        assert terms[0][name] == pytest.approx(terms[1][name], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "steps"), ({"optimizer": "sgd"}, "optimizer"), ({"init": "style"}, "init"), ({"lr": 0}, "lr")],
)
def test_wrong_arguments_are_named(pictures, loss, arguments, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        stylize(*pictures, loss=loss, **{"optimizer": "adam", **arguments})


def test_a_loss_for_other_pictures_is_refused(pictures):
    loss = PerceptualLoss(
        "vgg11", weights="random", content_layers=["relu1_1"], style_layers=["relu1_1"], input_range=(-1, 1)
    )
    with pytest.raises(ValueError, match="input_range"):
        stylize(*pictures, loss=loss)


def test_a_layer_that_sees_nothing_is_named(pictures):
    weights = load_network("vgg16", "random", layers=["relu2_2"]).state_dict()
    weights["conv2_2.weight"].zero_()
    with pytest.raises(ValueError, match="content_layers: expected layers that the picture excites, relu2_2"):
        style_transfer_loss(*pictures, weights=weights, **LAYERS)


def test_report_writes_pictures(tmp_path, pictures):
    content, style = pictures
    contact_sheet(tmp_path / "sheet.png", [[("content", content), ("style", style)], [("result", content)]], width=300)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width == 300 and sheet.height > 300
    loss_curve(tmp_path / "curve.png", {"loss": [3.0, 2.0], "content": [0.0, 0.5], "style": [3.0, 1.5]})
    assert Image.open(tmp_path / "curve.png").size == (1200, 675)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curve.png", "sheet.png"]


def test_the_training_loop_runs(capsys):
    training_loop.main(["--weights", "random", "--steps", "2", "--size", "32"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == ["before", "step", "step", "after"]
    assert "nan" not in said


def test_coarse_to_fine(pictures):
    content, style = (picture.repeat_interleave(4, 2).repeat_interleave(4, 3) for picture in pictures)
    losses, seen = [], []

    def make_loss(small_content, small_style):
        losses.append((small_content.shape, small_style.shape))
        return style_transfer_loss(small_content, small_style, weights="random", **LAYERS)

    settings = {"make_loss": make_loss, "steps": 5, "optimizer": "adam", "snapshots_at": (0, 5)}
    result = stylize_coarse_to_fine(content, style, scales=2, on_step=lambda step, terms: seen.append(step), **settings)
    # The style, which is a little smaller, is halved as far as it is no smaller than the content.
    assert losses == [((1, 3, 50, 60), (1, 3, 42, 60)), ((1, 3, 100, 120), (1, 3, 80, 112))]
    assert result.image.shape == content.shape
    assert seen == list(range(10)) and len(result.history["loss"]) == 10
    # The second size starts at the first one's result, not at the content.
    assert {step: image.shape[2] for step, image in result.snapshots.items()} == {0: 50, 5: 100}
    plain = stylize(content, style, loss=make_loss(content, style), steps=1, optimizer="adam")
    assert result.history["style"][5] < plain.history["style"][0]


def test_one_scale_is_stylize(pictures):
    content, style = (picture.repeat_interleave(4, 2).repeat_interleave(4, 3) for picture in pictures)
    loss = style_transfer_loss(content, style, weights="random", **LAYERS)
    settings = {"steps": 3, "optimizer": "adam", "init": "noise", "seed": 4}
    once = stylize_coarse_to_fine(content, style, scales=1, make_loss=lambda *_: loss, **settings)
    assert torch.equal(once.image, stylize(content, style, loss=loss, **settings).image)


@pytest.mark.parametrize(
    ("scales", "sentence"), [(0, "scales: expected a whole number of at least 1"), (2, "at least 32 pixels, 2 give 10")]
)
def test_scales_out_of_range(pictures, scales, sentence):
    with pytest.raises(ValueError, match=sentence):
        stylize_coarse_to_fine(*pictures, scales=scales)


def test_a_picture_to_start_at(pictures, loss):
    start = torch.rand(pictures[0].shape, generator=torch.Generator().manual_seed(3))
    result = stylize(*pictures, loss=loss, steps=1, optimizer="adam", init=start, snapshots_at=(0,))
    assert torch.equal(result.snapshots[0], start)
    with pytest.raises(ValueError, match="init: expected a picture like the content"):
        stylize(*pictures, loss=loss, init=start[..., 1:])

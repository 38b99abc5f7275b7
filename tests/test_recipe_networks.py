"""Transformation networks and their files: shapes, ranges, any size, and what cannot be exported."""

import json
import sys

import pytest
import torch
from torch import nn

from perceptual_ops import cli
from perceptual_ops.images import write_image
from perceptual_ops.recipes import StyleNet, SuperResolutionNet, export_model, load_model, save_model
from perceptual_ops.recipes.exported import FACTS
from perceptual_ops.recipes.own_network import check_sizes, module_by_path
from perceptual_ops.recipes.super_resolution import enlarged, shrunk
from perceptual_ops.recipes.transform_net import FLAT


def painter() -> StyleNet:
    """One that has learned something: it begins with zeros in its last layer."""
    torch.manual_seed(0)
    net = StyleNet(width=4, blocks=1)
    nn.init.normal_(net.last.weight, std=1.0)
    return net


def painted(net: StyleNet, images: torch.Tensor) -> torch.Tensor:
    """What it adds to the images in the style's palette."""
    return net(images) - net.palette(images)


@pytest.mark.parametrize("size", [(17, 17), (18, 31), (64, 50)])
def test_style_net_keeps_every_size(size):
    net, images = painter(), torch.rand(2, 3, *size)
    result = net(images)
    assert result.shape == images.shape
    assert painted(net, images).std() > 0.01


def test_style_net_sees_each_sample_alone():
    net, images = painter(), torch.rand(3, 3, 24, 24)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


def test_what_style_net_paints_does_not_mind_contrast():
    """Instance normalisation: a picture and a paler one of it look alike to the network."""
    net, images = painter(), torch.rand(1, 3, 32, 32)
    assert painted(net, images).std() > 0.01
    torch.testing.assert_close(painted(net, images / 2), painted(net, images), rtol=0, atol=2e-3)


def test_style_net_does_not_see_where_a_picture_ends():
    """A flat picture is painted flat; zeros beyond its border would show."""
    torch.manual_seed(0)
    net = StyleNet(width=4, blocks=5)
    nn.init.normal_(net.last.weight, std=10.0)
    for module in net.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.eps = 0.01  # or it enlarges rounding, all that differs in a flat picture
            nn.init.uniform_(module.bias)
    assert net(torch.full((1, 3, 64, 64), 0.3)).std((2, 3)).max() < 1e-4


def test_style_net_begins_at_the_image_in_the_palette_of_the_style():
    torch.manual_seed(0)
    images, style = torch.rand(2, 3, 32, 40), torch.rand(1, 3, 16, 24) ** 2
    net = StyleNet(width=4, blocks=1, style=style)
    result = net(images)
    for one in result:
        torch.testing.assert_close(one.mean((1, 2)), style.mean((0, 2, 3)))
        torch.testing.assert_close(one.std((1, 2)), style.std((0, 2, 3)), rtol=FLAT / (2 * images.var()), atol=0)
    correlation = torch.corrcoef(torch.stack([result[1, 2].flatten(), images[1, 2].flatten()]))[0, 1]
    assert correlation > 0.9999
    result.square().sum().backward()
    assert net.last.weight.grad.abs().sum() > 0


def test_style_net_makes_no_contrast_of_nothing():
    """A clear sky whose every rounding were brought to the style's deviation would be noise."""
    sky = 0.7 + 0.004 * torch.rand(1, 3, 32, 32)
    assert StyleNet(width=4, blocks=1)(sky).std() < 0.02


def test_the_first_step_of_adam_drives_style_net_nowhere():
    """All weights of its last filters move at once; what is far off has Grams a thousand times the style's."""
    images = torch.rand(2, 3, 32, 32)
    net = StyleNet(blocks=1)
    before = net(images).detach()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    (1 - net(images)).square().mean().backward()
    optimizer.step()
    assert (net(images) - before).abs().max() < 0.05


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_super_resolution_begins_at_the_bicubic_enlargement(scale):
    images = torch.rand(2, 3, 9, 13)
    net = SuperResolutionNet(scale, width=4, blocks=1)
    assert net(images).shape == (2, 3, 9 * scale, 13 * scale)
    torch.testing.assert_close(net(images).clamp(0, 1), enlarged(images, scale))
    net(images).square().sum().backward()
    assert net.last.weight.grad.abs().sum() > 0


def test_shrunk_pictures_are_such_as_files_hold():
    images = torch.rand(1, 3, 37, 50)
    small = shrunk(images, 4)
    assert small.shape == (1, 3, 9, 12)
    torch.testing.assert_close(small * 255, (small * 255).round(), rtol=0, atol=1e-4)
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    torch.testing.assert_close(shrunk(flat, 4), flat[..., :4, :4])


@pytest.mark.parametrize(("network", "scale"), [(StyleNet(4, 1), 1), (SuperResolutionNet(4, 4, 1), 4)])
def test_a_file_gives_the_network_back_for_any_size(tmp_path, network, scale):
    nn.init.normal_(network.last.weight, std=1.0 if scale == 1 else 0.05)
    network.train()
    save_model(tmp_path / "model.safetensors", network, "style" if scale == 1 else "super-resolution", scale)
    assert network.training
    model = load_model(tmp_path / "model.safetensors")
    assert model.scale == scale
    assert model.multiple == 1
    for shape in [(1, 3, 17, 17), (2, 3, 33, 70), (5, 3, 21, 18)]:
        images = torch.rand(shape)
        torch.testing.assert_close(model(images), network(images).clamp(0, 1).detach())
    scale = model.scale
    assert model(torch.rand(1, 3, 1, 9)).shape == (1, 3, scale, 9 * scale)
    for shape, told in [
        ((1, 3, 20, 8193), "sides of 1 to 8192 pixels, got"),
        ((1, 1, 20, 20), "got"),
        ((3, 20, 20), "got"),
    ]:
        with pytest.raises(ValueError, match=told):
            model(torch.empty(shape))


class UNet(nn.Module):
    """What most image-to-image networks are: down and up again, for sides that can be halved."""

    def __init__(self, levels=2):
        super().__init__()
        self.down = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(levels))
        self.up = nn.ModuleList(nn.ConvTranspose2d(3, 3, 2, stride=2) for _ in range(levels))

    def forward(self, images):
        kept, x = [], images
        for layer in self.down:
            kept.append(x)
            x = nn.functional.max_pool2d(layer(x), 2)
        for layer in self.up:
            x = (layer(x) + kept.pop()) / 2
        return x


class Halving(nn.Module):
    """Takes any size and gives a multiple of 4."""

    def forward(self, images):
        return nn.functional.interpolate(nn.functional.max_pool2d(images, 4), scale_factor=4.0)


@pytest.mark.parametrize(("network", "multiple"), [(Halving(), 4), (UNet(1), 2), (UNet(6), 64)])
def test_the_least_multiple_is_found(tmp_path, network, multiple):
    save_model(tmp_path / "model.safetensors", network, "style")
    model = load_model(tmp_path / "model.safetensors", network=network)
    assert model.multiple == multiple
    assert model(torch.rand(1, 3, 61, 43)).shape == (1, 3, 61, 43)


def test_a_style_that_is_no_picture():
    with pytest.raises(ValueError, match=r"style: expected a picture \(1, 3, H, W\), got \(3, 8, 8\)"):
        StyleNet(style=torch.rand(3, 8, 8))


def test_networks_for_multiples_of_pixels(tmp_path):
    torch.manual_seed(0)
    network = UNet()
    check_sizes(network, 32, scale=1)
    save_model(tmp_path / "model.safetensors", network, "style")
    model = load_model(tmp_path / "model.safetensors", network=network)
    assert model.multiple == 4
    images = torch.rand(2, 3, 32, 44)
    torch.testing.assert_close(model(images), network(images).clamp(0, 1).detach())
    odd = model(images[..., :29, :42])
    assert odd.shape == (2, 3, 29, 42)
    torch.testing.assert_close(odd[..., :16, :16], network(images).clamp(0, 1)[..., :16, :16].detach())


class DependsOnValues(nn.Module):
    def forward(self, images):
        return images if float(images.sum()) > 0 else -images


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(48, 64))

    def forward(self, images):
        return images * self.weight


@pytest.mark.parametrize("network", [DependsOnValues(), OneSize()])
def test_networks_that_torch_export_does_not_take(tmp_path, network):
    with pytest.raises(ValueError, match=rf"network: expected one that torch.export takes.*{type(network).__name__}"):
        export_model(tmp_path / "program.pt2", network, "style")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_exported_can_be_saved(tmp_path):
    save_model(tmp_path / "model.safetensors", DependsOnValues(), "style")
    images = torch.rand(1, 3, 20, 31)
    assert torch.equal(load_model(tmp_path / "model.safetensors", network=DependsOnValues())(images), images)


def test_a_network_for_one_size_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"network: expected one for any size of images, .* OneSize is not \(expected"):
        save_model(tmp_path / "model.safetensors", OneSize(), "style")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("network", "scale", "multiple"), [(SuperResolutionNet(2, 4, 1), 2, 1), (UNet(2), 1, 4)])
def test_a_program_runs_without_this_library(tmp_path, network, scale, multiple):
    export_model(tmp_path / "program.pt2", network, "super-resolution", scale)
    facts = {FACTS: ""}
    program = torch.export.load(tmp_path / "program.pt2", extra_files=facts)
    assert json.loads(facts[FACTS]) == {"kind": "super-resolution", "scale": scale, "multiple": multiple}
    images = torch.rand(3, 3, 20, 36)
    torch.testing.assert_close(program.module()(images), network.eval()(images))


def test_sizes_of_a_network_of_ones_own():
    check_sizes(nn.Conv2d(3, 3, 1), 32, scale=1)
    with pytest.raises(
        ValueError, match=r"expected images \(1, 3, 64, 64\) from images \(1, 3, 32, 32\), got \(1, 3, 32, 32\)"
    ):
        check_sizes(nn.Conv2d(3, 3, 1), 32, scale=2)


@pytest.mark.parametrize(
    ("source", "path", "sentence"),
    [
        ("", ".own_bad:Net", "network: expected package.module:name, such as"),
        ("", "own_bad", "network: expected package.module:name, such as"),
        ("def Net(:", "own_bad:Net", "network: expected own_bad to be imported, it raises SyntaxError"),
        ("raise RuntimeError('no luck')", "own_bad:Net", "own_bad to be imported, it raises RuntimeError (no luck)"),
        ("raise SystemExit(0)", "own_bad:Net", "own_bad to be imported, it raises SystemExit (0)"),
        ("def Net(): {}['weights']", "own_bad:Net", "own_bad:Net to make a module without arguments, it raises KeyErr"),
        ("def Net(): open('/no/such')", "own_bad:Net", "without arguments, it raises FileNotFoundError"),
        ("def Net(size): pass", "own_bad:Net", "without arguments, it raises TypeError"),
        ("import sys; Net = sys.exit", "own_bad:Net", "without arguments, it raises SystemExit"),
    ],
)
def test_a_network_of_ones_own_that_cannot_be_made(tmp_path, monkeypatch, capsys, source, path, sentence):
    (tmp_path / "own_bad.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_bad", raising=False)
    with pytest.raises(ValueError) as refused:
        module_by_path(path)
    assert sentence in str(refused.value)
    if not path.startswith(".") and ":" in path:
        save_model(tmp_path / "model.safetensors", nn.Conv2d(3, 3, 1), "style", source=path)
        write_image(tmp_path / "in.png", torch.zeros(3, 20, 20))
        names = [str(tmp_path / name) for name in ("model.safetensors", "in.png", "out.png")]
        assert cli.main(["apply", *names, "--network", path, "--device", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line

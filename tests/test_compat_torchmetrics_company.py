"""What users of torchmetrics do with a metric beside update and compute, on compat.torchmetrics."""

from __future__ import annotations

import copy
import gc
import importlib
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from metrics import pictures, trunk_weights
from peers import exact_dists_numbers, features, peer, torchvision_gives
from torch import Tensor, nn

package = peer("torchmetrics")  # before ours looks for it, see test_compat_torchmetrics
wrappers = importlib.import_module("torchmetrics.wrappers")
ours = importlib.import_module("perceptual_ops.compat.torchmetrics")
po = importlib.import_module("perceptual_ops")


def lpips(**settings: Any) -> Any:
    return ours.LearnedPerceptualImagePatchSimilarity(
        **({"normalize": True, "weights": trunk_weights("alex")} | settings)
    )


def dists(**settings: Any) -> Any:
    return ours.DeepImageStructureAndTextureSimilarity(weights=trunk_weights("vgg16"), **settings)


MAKERS: dict[str, Callable[[], Any]] = {
    "lpips": lpips,
    "lpips none": lambda: lpips(reduction="none"),
    "dists": dists,
    "variation": ours.TotalVariation,
}


def pair(name: str, seed: int = 0) -> list[Tensor]:
    return [pictures(2, 40, 44, seed), *([] if name == "variation" else [pictures(2, 40, 44, seed + 1)])]


@pytest.mark.parametrize("name", MAKERS)
def test_plot(name: str) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    metric = MAKERS[name]()
    metric.update(*pair(name))
    _, axes = importlib.import_module("matplotlib.pyplot").subplots()
    assert metric.plot(ax=axes)[1] is axes
    assert metric.plot([metric.compute(), metric.compute()])[1].lines
    importlib.import_module("matplotlib.pyplot").close("all")


@pytest.mark.parametrize("name", MAKERS)
def test_script(name: str) -> None:
    torch.jit.script(MAKERS[name]())


# ---- FeatureShare ----


def test_a_shared_network_runs_once() -> None:
    shared = wrappers.FeatureShare({"mean": lpips(), "sum": lpips(reduction="sum"), "as is": lpips(normalize=False)})
    x, y = pair("lpips")
    networks = {id(metric.net.network) for metric in shared.values()}
    assert len(networks) == 1
    shared.update(x, y)
    found = shared.compute()
    torch.testing.assert_close(found["sum"], 2 * found["mean"])
    torch.testing.assert_close(found["mean"], lpips()(x, y))
    torch.testing.assert_close(found["as is"], lpips(normalize=False)(x, y))
    assert shared["mean"].net.network.forward.cache_info().hits == 1
    with pytest.raises(ValueError, match="img2: expected the batch and size of img1"):
        shared.update(x, y[..., 1:])


def test_networks_of_two_metrics_cannot_be_shared() -> None:
    with pytest.raises(TypeError, match=r"net: expected a network of \w+Similarity, got .*one kind can share"):
        wrappers.FeatureShare({"lpips": lpips(), "dists": dists()})


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"net_type": "squeeze", "weights": "random"}, "architecture"),
        ({"weights": "random"}, "weights"),
        ({"linear": False}, "learned weights"),
    ],
    ids=["architecture", "weights", "linear"],
)
def test_networks_that_differ_cannot_be_shared(other: dict[str, Any], part: str) -> None:
    with pytest.raises(ValueError, match=f"^net: expected a network of the {part} that this metric's own has"):
        wrappers.FeatureShare({"a": lpips(), "b": lpips(**other)})


def test_settings_that_differ_cannot_be_shared() -> None:
    for name, value in {"eps": 1e-3, "compute_dtype": torch.bfloat16}.items():
        other = lpips()
        setattr(other.net._loss, name, value)
        with pytest.raises(ValueError, match=r"^net: expected a network of the settings that this metric's own has"):
            wrappers.FeatureShare({"a": lpips(), "b": other})
    with pytest.raises(ValueError, match=r"^net: expected a network of the learned weights"):
        wrappers.FeatureShare({"a": dists(), "b": dists(alpha_beta=exact_dists_numbers())})


def test_a_network_may_be_replaced() -> None:
    metric, other = dists(), po.DISTS(weights="random")
    metric.net = other
    x, y = pair("dists")
    torch.testing.assert_close(metric(x, y), other(x, y).mean())
    assert dict(metric.named_modules())["net"] is other


# ---- attributes ----


@pytest.mark.parametrize("name", ["lpips", "dists", "variation"])
def test_mean_and_sum_are_exchanged(name: str) -> None:
    metric = MAKERS[name]()
    metric.reduction = "mean"
    metric.update(*pair(name))
    mean = metric.compute()
    metric.reduction = "sum"
    torch.testing.assert_close(metric.compute(), 2 * mean)
    with pytest.raises(ValueError, match="reduction: expected one of"):
        metric.reduction = "max"
    if name != "dists":
        with pytest.raises(AttributeError, match="reduction: expected one that a metric made with 'sum' can give"):
            metric.reduction = None
        each = type(metric)(reduction="none") if name == "variation" else lpips(reduction="none")
        with pytest.raises(AttributeError, match="'none' can give, which keeps every score; got 'mean'"):
            each.reduction = "mean"


def test_the_range_is_read_at_each_call() -> None:
    metric, (x, y) = lpips(), pair("lpips")
    metric(x, y)
    metric.normalize = False
    torch.testing.assert_close(metric(x, y), lpips(normalize=False)(x, y))
    torch.testing.assert_close(metric(2 * x - 1, 2 * y - 1), lpips()(x, y))
    metric.normalize = True
    with pytest.raises(ValueError, match=r"img1: expected values in \[0, 1\] .* set check_range=False"):
        metric(2 * x, y)
    metric.check_range = False
    metric(2 * x, y)
    with pytest.raises(ValueError, match="normalize: expected True or False, got 'yes'"):
        metric.normalize = "yes"
    with pytest.raises(ValueError, match="check_range: expected True or False, got None"):
        metric.check_range = None


def test_settings_of_the_network() -> None:
    metric, (x, y) = lpips(), pair("lpips")
    exact = metric(x, y)
    metric.net.chunk_size = 1
    torch.testing.assert_close(metric(x, y), exact)
    metric.net.compute_dtype = torch.bfloat16
    assert metric(x, y) != exact
    with pytest.raises(ValueError, match="engine: expected one of"):
        metric.net.engine = "fast"


def test_parts_of_the_network_train_nothing() -> None:
    layer = lpips().net.lin0.model[1]
    assert layer.weight.shape == (1, 64, 1, 1)
    assert not layer.weight.requires_grad


# ---- images ----


def test_grey_images_are_refused_where_torchmetrics_refuses_them() -> None:
    x, y = pair("lpips")
    for name, images in (("img1", (x[:, :1], y)), ("img2", (x, y[:, :1]))):
        for call in (lpips(), lpips(check_range=False).update):
            message = f"{name}: expected three channels.*Expected both input arguments to be normalized tensors"
            with pytest.raises(ValueError, match=message):
                call(*images)
    torch.testing.assert_close(dists()(x[:, :1], y[:, :1]), dists()(*(z[:, :1].expand(-1, 3, -1, -1) for z in (x, y))))


def test_half_images_are_scaled_in_single() -> None:
    x, y = (0.02 * images.half() for images in pair("lpips"))
    torch.testing.assert_close(lpips()(x, y), lpips()(x.float(), y.float()), rtol=1e-6, atol=0)


# ---- graphs ----


class Last(torch.autograd.Function):
    """The last layer of a generator, whose node lives as long as the graph does."""

    node: Any

    @staticmethod
    def forward(node: Any, image: Tensor) -> Tensor:  # type: ignore[override]
        Last.node = weakref.ref(node)
        return image.clone()

    @staticmethod
    def backward(node: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


@pytest.mark.parametrize("settings", [{}, {"dist_sync_on_step": True}], ids=str)
@pytest.mark.parametrize("name", ["lpips", "lpips none", "dists"])
def test_a_training_step_leaves_no_graph(name: str, settings: dict[str, Any]) -> None:
    metric = (
        lpips(reduction="none", **settings)
        if name == "lpips none"
        else {"lpips": lpips, "dists": dists}[name](**settings)
    )
    x, y = pair(name)
    image = x.requires_grad_()
    value = metric(Last.apply(image), y)
    value.sum().backward()
    assert image.grad is not None and image.grad.any()
    del value
    gc.collect()
    assert Last.node() is None
    for other in (copy.deepcopy(metric), metric.clone()):
        torch.testing.assert_close(other.compute(), metric.compute())


# ---- checkpoints ----


def test_a_checkpoint_of_the_peer_loads() -> None:
    with torchvision_gives(alexnet=features("alexnet")):
        theirs = peer("torchmetrics.image.lpip").LearnedPerceptualImagePatchSimilarity("alex", normalize=True)
    metric, (x, y) = lpips(weights="random"), pair("lpips")
    with pytest.warns(UserWarning, match="network"):  # it is another, and no longer saved
        nn.ModuleDict({"metric": metric}).load_state_dict(nn.ModuleDict({"metric": theirs}).state_dict())
    torch.testing.assert_close(metric(x, y), theirs(x, y), rtol=1e-5, atol=0)
    assert not metric.state_dict()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        metric.load_state_dict({"net.fc.weight": torch.zeros(1)})


# ---- torchmetrics' wrappers ----


def test_wrappers() -> None:
    x, y = pair("lpips")
    expected = lpips()(x, y)
    best = wrappers.MinMaxMetric(lpips())
    for images in (x, y):
        best.update(images, y)
        found = best.compute()
    torch.testing.assert_close(found, {"raw": expected / 2, "max": expected, "min": expected / 2})
    running = wrappers.Running(lpips(), window=2)
    for images in (y, y, x):
        running(images, y)
    torch.testing.assert_close(running.compute(), expected / 2)
    tracker = wrappers.MetricTracker(package.MetricCollection({"lpips": lpips(), "dists": dists()}), maximize=None)
    for images in (y, x):
        tracker.increment()
        tracker.update(images, y)
    assert tracker.best_metric(return_step=True)[1] == {"lpips": 0, "dists": 0}
    torch.testing.assert_close(tracker.compute()["lpips"], expected)
    booted = wrappers.BootStrapper(lpips(), num_bootstraps=2, sampling_strategy="multinomial")
    booted.update(y, y)
    assert not booted.compute()["mean"]


# ---- torch.compile ----


@pytest.fixture
def nothing_compiled() -> None:
    """All metrics share torchmetrics' code around `update`, of which only so many forms are compiled in a process."""
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.usefixtures("nothing_compiled")
def test_every_way_of_calling_compiles(name: str) -> None:
    metric, plain, batches = MAKERS[name](), MAKERS[name](), [pair(name), pair(name, seed=2)]
    backend = "aot_eager" if name == "lpips none" else "eager"  # one, whose state is a list
    update, forward = (torch.compile(call, fullgraph=True, backend=backend) for call in (metric.update, metric))
    for batch in batches:
        update(*batch)
        plain.update(*batch)
        torch.testing.assert_close(forward(*batch), plain(*batch))
    torch.testing.assert_close(metric.compute(), plain.compute())


@pytest.mark.usefixtures("nothing_compiled")
def test_the_range_is_checked_in_a_compiled_graph() -> None:
    metric, (x, y) = lpips(), pair("lpips")
    # By "eager", an error amid a graph would leave the gradient mode that the graph was in.
    update = torch.compile(metric.update, fullgraph=True, backend="aot_eager")
    update(x, y)
    before = metric.compute()
    with pytest.raises(ValueError, match=r"img2: expected values in \[0, 1\]"):
        update(x, y + 1)
    torch.testing.assert_close(metric.compute(), before)


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (ours.learned_perceptual_image_patch_similarity, {"normalize": True, "weights": "random"}),
        (ours.deep_image_structure_and_texture_similarity, {"weights": "random"}),
        (ours.total_variation, {"reduction": "mean"}),
    ],
)
@pytest.mark.usefixtures("nothing_compiled")
def test_functions_compile(function: Callable[..., Tensor], settings: dict[str, Any]) -> None:
    images = pair("variation" if function is ours.total_variation else "lpips")
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        torch.manual_seed(seed)
        torch.testing.assert_close(compiled(*images, **settings), function(*images, **settings))
    found = torch.autograd.grad(compiled(images[0].requires_grad_(), *images[1:], **settings).sum(), images[0])
    torch.testing.assert_close(found, torch.autograd.grad(function(*images, **settings).sum(), images[0]))

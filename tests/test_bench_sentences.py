"""What the pages say of the benches in sentences, and that they say no measured figure anywhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench import pages, results, sentences

# A figure as a bench measures it: memory, time, a share or a multiple.
FIGURE = re.compile(r"\d\s?(?:[MG]B|ms|s|seconds|minutes|hours|%)(?!\w)|\b1/\d|\d times (?:as fast|eager)")
# What is no result of a bench, by page.
OTHERS: Mapping[str, tuple[str, ...]] = {
    "README.md": ("stops after four minutes at most",),
    "docs/performance.md": ("more than 1, 2 and 4 GB",),  # the limits of `make out-of-memory`
    "docs/guides/large-images.md": (
        "maps beyond 32 MB are handed back",  # glibc's threshold
        "saves 18 % of the time (fp32) to 30 % (bf16)",  # by environment variables that a bench does not set
        "holes between maps of about 25 MB",  # glibc
    ),
    "docs/guides/several-gpus.md": ("2.8 MB to each other rank",),  # bytes that follow from the layers
}


def row(suite: str, case: str, variant: str, ms: float, mb: str, dtype: str = "fp32", **more: str) -> results.Row:
    named = {"suite": suite, "case": case, "variant": variant, "dtype": dtype, "median_ms": f"{ms:g}"}
    return dict.fromkeys(results.COLUMNS, "") | named | {"allocated_mb": mb, "status": "passed"} | more


def test_figures_stand_in_regions() -> None:
    """Elsewhere nothing would notice that they are old."""
    checked = [results.ROOT / "README.md", results.ROOT / "docs" / "performance.md"]
    found = []
    for page in [*checked, *sorted((results.ROOT / "docs" / "guides").glob("*.md"))]:
        name = str(page.relative_to(results.ROOT))
        found += [f"{name}: {line}" for line in figures_outside(page.read_text(), OTHERS.get(name, ()))]
    assert not found, "make them a sentence of bench/sentences.py, or say here why they are none of a bench"


def figures_outside(text: str, others: tuple[str, ...] = ()) -> list[str]:
    """The paragraphs with figures outside of regions and blocks of code; what is allowed must be there."""
    for pattern in (pages.REGION, re.compile("```.*?```", re.DOTALL)):
        text = pattern.sub("", text)
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", text)
    for other in others:
        assert other in text, f"no longer on the page: {other}"
        text = text.replace(other, "")
    return [line for line in text.splitlines() if FIGURE.search(line)]


@pytest.mark.parametrize(
    "text", ["takes 51 MB", "is 1.4 times as fast", "in 1/13 of the memory", "lasts 45 s", "8 % off"]
)
def test_a_figure_outside_of_a_region_is_found(text: str) -> None:
    assert figures_outside(f"It\n{text} here\n") == [f"It {text} here"]
    assert figures_outside(f"<!-- report: large cpu -->\n{text}\n<!-- /report -->\n```\n{text}\n```\n") == []
    assert figures_outside(f"It {text} here", (text,)) == []
    with pytest.raises(AssertionError, match="no longer on the page"):
        figures_outside("It", (text,))


def test_lpips_of_a_batch() -> None:
    rows = [
        row("metrics", sentences.HEADLINE, name, ms, mb)
        for name, ms, mb in (("lpips", 190, "4440"), ("compiled", 107, "2872"), ("ours", 100, "76.8"))
    ]
    assert sentences.headline(rows) == (
        "LPIPS-VGG with its gradient, 16 images of 256x256 in fp32: **76.8 MB of tensors instead of 4.44 GB, 1.90 "
        "times as fast** as the package lpips; under `torch.compile` lpips takes 2.87 GB and 1.07 times our time."
    )
    assert sentences.headline(rows[::2]).endswith("as fast** as the package lpips.")
    with pytest.raises(ValueError, match=r"expected ours and lpips at .*, got ours"):
        sentences.headline(rows[2:])


def test_plain_pytorch() -> None:
    rows = [
        row("metrics", case, name, ms, mb)
        for case, rival, theirs in (("a", "lpips", 143), ("b", "eager", 96))
        for name, ms, mb in ((rival, theirs, "1110"), ("ours", 100, "111"))
    ]
    assert "take 1/10 of the memory" in sentences.plain(rows) and "at 0.96 to 1.43 times" in sentences.plain(rows)


def test_how_far_16_bits_are_off() -> None:
    dtypes = {"float32": "1e-6", "float16": "2e-3", "bfloat16": "3e-2"}
    rows = [
        {"loss": loss, "images": images, "dtype": dtype, "value_worst": worst}
        for loss in ("LPIPS vgg16", "johnson-style")
        for images in ("spoiled", "nearly equal")
        for dtype, worst in dtypes.items()
    ]
    rows[1]["value_worst"], rows[7]["value_worst"] = "5e-3", "9"  # the second is of another loss
    assert "by 1e-06 in fp32, 0.005 in fp16 and 0.03 in bf16" in sentences.precision(rows)


def test_chunk_sizes() -> None:
    rows = [row("loss", sentences.CHUNKS, f"ours, chunk {size}", 1, mb) for size, mb in ((1, "72.6"), (32, "1544"))]
    assert "take 72.6 MB at `chunk_size=1`, 1.54 GB at `chunk_size=32`" in sentences.chunks(rows)


def test_networks_of_other_packages() -> None:
    """Those with eager, of 16 images, from the least to the most."""
    rows = [
        row("modules", f"{network} 16x224x224", name, ms, mb, ratio=ratio)
        for network, eager, ratio in (("convnext-s", 900, "0.9"), ("vit-s14", 1100, "1.1"))
        for name, ms, mb, ratio in (("eager", eager, "1300", ratio), ("ours", 1000, "100", "1"))
    ]
    rows += [row("modules", "resnet-50 8x224x224", name, 1, "1") for name in ("eager", "ours")]
    rows += [row("modules", "lpips-squeeze 16x224x224", name, 1, mb) for name, mb in (("lpips", "900"), ("ours", "40"))]
    text = sentences.modules(rows)
    assert text.startswith("Over convnext-s, vit-s14, 16 images") and "takes 1/13 of eager's" in text
    assert text.endswith("at 0.90 to 1.10 times its speed.")


def test_trainings(tmp_path: Path) -> None:
    runs = (
        ("plain", "0", "63.5"),
        ("plain NHWC", "0.016", "58"),
        ("ours", "0.0154", "45.3"),
        ("ours bf16", "0.083", "13.1"),
    )
    rows = [{"run": run, "steps": "200", "mean_difference": off, "seconds": seconds} for run, off, seconds in runs]
    text = sentences.training(rows)
    assert "for 200 steps" in text and "1.5% off on average, where the plain loss in channels_last is 1.6% off" in text
    assert text.endswith("It takes 45 s, with the plain loss 64 s; in bf16 13 s, and the curve is 8% off.")


def test_a_photograph_in_capped_memory() -> None:
    rows = [
        {"side": "1024", "limit_mb": "2000", "seconds": "40", "error": "1.8e-07"},
        {"side": "8000", "limit_mb": "2000", "seconds": "1500", "error": ""},
    ]
    text = sentences.photograph(rows)
    assert "of 8000x8000 pixels" in text and "limited to 2 GB of private memory, in 25 minutes" in text
    assert text.endswith("at 1024x1024 it differs from the whole image's by 1.8e-07.")

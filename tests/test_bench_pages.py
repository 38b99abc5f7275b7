"""README and docs: tables and plots of the benches are what their CSVs make, whose commits hold what they measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bench import markdown, out_of_memory, pages, plots, results, sentences

MACHINE = vars(results.Machine("CPU, 2 threads", "2", "2.13", "0.1.0", "compiled", "0123", "", "2026-01-02T03"))
# What a commit must hold whose rows are shown, by suite.
CODE = {
    "operators": "csrc/library.cpp",
    "loss": "perceptual_ops/losses/presets.py",
    "metrics": "perceptual_ops/losses/lpips.py",
    "modules": "perceptual_ops/engine/module_trunk.py",
    "adaptive": "examples/drop_in/vae_gan.py",
    "clips": "perceptual_ops/engine/frames.py",
    "steps": "perceptual_ops/recipes/transform_net.py",
    "tiles": "perceptual_ops/engine/tiled_loss.py",
}
# By a column.
OF_OTHER_TABLES = {
    "side": "bench/large_photograph.py",
    "limit_mb": "bench/out_of_memory.py",
    "run": "bench/training.py",
}


@pytest.fixture(scope="module")
def report() -> pages.Report:
    return pages.Report().make()


# ---- what is committed ----


def test_pages_are_what_the_csvs_make(report: pages.Report) -> None:
    old = [str(path.relative_to(results.ROOT)) for path, text in report.pages.items() if path.read_text() != text]
    assert not old, "make report"


def test_plots_are_what_the_csvs_make(report: pages.Report) -> None:
    """By the numbers: matplotlib's versions draw them differently."""
    assert {*pages.PLOTS.glob("*.svg")} == {*report.plots}, "make report"
    for path, text in report.plots.items():
        assert plots.data_of(path.read_text()) == plots.data_of(text), f"{path.name}: make report"


def test_commits_hold_what_they_measured(report: pages.Report) -> None:
    if not (results.ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout: the commits of rows cannot be looked up")
    if results.git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone: the commits of rows are not in it")
    wanted = {(row["commit"], path) for row in report.rows for path in code_of(row)}
    assert not [
        f"{commit} is not known, or has no {path}" for commit, path in sorted(wanted) if not holds(commit, path)
    ]


def code_of(row: results.Row) -> list[str]:
    """The files that the row's commit must hold: what was measured, and what measured it."""
    if "suite" not in row:
        return [next(OF_OTHER_TABLES[name] for name in OF_OTHER_TABLES if name in row)]
    measured_by = [f"bench/suites/{row['suite']}.py"] if row["versus"] else []  # without pairs, an older bench
    return [CODE[row["suite"]], *measured_by]


def holds(commit: str, path: str) -> bool:
    """Whether a commit is in this one's history and has a file."""
    try:
        results.git("merge-base", "--is-ancestor", commit, "HEAD")
        results.git("cat-file", "-e", f"{commit}:{path}")
    except subprocess.CalledProcessError:
        return False
    return True


def test_a_commit_that_is_not_known() -> None:
    if not (results.ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout: commits cannot be looked up")
    head = results.git("rev-parse", "HEAD")
    assert holds(head, "README.md") and not holds(head, "no such file") and not holds("0123456789ab", "README.md")


# ---- how they are made ----


def row(suite: str, case: str, variant: str, dtype: str, ms: float, **more: str) -> results.Row:
    empty = dict.fromkeys(results.COLUMNS, "")
    named = {"suite": suite, "case": case, "variant": variant, "dtype": dtype, "median_ms": f"{ms:g}"}
    return empty | MACHINE | named | {"status": "passed", "busy": "0"} | more


ROWS = [
    row("loss", "1x256x256", "eager", "fp32", 300, ratio="3.00", ratio_p20="2.9", ratio_p80="3.1", allocated_mb="500"),
    row("loss", "1x256x256", "ours", "fp32", 100, ratio="1", allocated_mb="50"),
    row("loss", "4x256x256", "eager", "fp32", 1300, allocated_mb="2000"),  # of before: no ratio of pairs
    row("loss", "4x256x256", "ours", "fp32", 400, allocated_mb="60"),
    row("loss", "4x256x256", "compiled", "bf16", 210, ratio="1.05", allocated_mb="265"),
    row("loss", "4x256x256", "ours", "bf16", 200, ratio="1", allocated_mb="70"),
]


def checkout(folder: Path, text: str, rows: list[results.Row] = ROWS) -> pages.Report:
    (folder / "docs").mkdir()
    (folder / "README.md").write_text("no regions")
    (folder / "docs" / "page.md").write_text(text)
    results.write(folder / "results" / "cpu.csv", rows)
    return pages.Report(folder, folder / "results")


def region(words: str) -> str:
    return f"before\n<!-- report: {words} -->\nold\n<!-- /report -->\nafter\n"


def made(folder: Path, words: str, rows: list[results.Row] = ROWS) -> tuple[str, pages.Report]:
    report = checkout(folder, region(words), rows).make()
    (text,) = report.pages.values()
    return text, report


def test_a_table_compares_like_with_like(tmp_path: Path) -> None:
    text, report = made(tmp_path, "compared loss cpu")
    assert text == (
        "before\n<!-- report: compared loss cpu -->\n\n"
        "| fp32 | ours | memory | eager |\n| --- | ---: | ---: | ---: |\n"
        "| 1x256x256 | 100 ms | 50 MB, 1/10 of 500 MB | 300 ms (3.00x) |\n"
        "| 4x256x256 | 400 ms | 60 MB, 1/33 of 2 GB | 1.3 s (3.25x) |\n\n"
        "| bf16 | ours | memory | compiled |\n| --- | ---: | ---: | ---: |\n"
        "| 4x256x256 | 200 ms | 70 MB, 1/3.8 of 265 MB | 210 ms (1.05x) |\n\n"
        "CPU, 2 threads; torch 2.13; commit 0123; 2026-01-02; `make bench ONLY=loss FULL=1`.\n\n"
        "<!-- /report -->\nafter\n"
    )
    assert len(report.rows) == 6


def test_other_settings_of_ours_have_their_memory() -> None:
    """Also of what is too large for any other way; memory alone is no row."""
    rows = [
        row("tiles", "lpips-vgg 32x256x256", "ours, chunk 1", "fp32", 0, allocated_mb="70") | {"median_ms": ""},
        row("tiles", "lpips-vgg 1x1024x1024", "ours", "fp32", 100, ratio="1", allocated_mb="300"),
        row("tiles", "lpips-vgg 1x1024x1024", "ours, tiles", "fp32", 137, ratio="1.37", allocated_mb="145"),
        row("tiles", "lpips-vgg 1x4096x4096", "ours, tiles", "fp32", 900, ratio="1", allocated_mb="147"),
    ]
    assert markdown.comparison(rows).splitlines()[2:] == [
        "| lpips-vgg 1x1024x1024 | 100 ms | 300 MB | 137 ms (1.37x) in 145 MB |",
        "| lpips-vgg 1x4096x4096 |  |  | 900 ms in 147 MB |",
    ]


def test_a_region_without_an_end(tmp_path: Path) -> None:
    report = checkout(tmp_path, region("compared loss cpu").replace("<!-- /report -->", "", 1) + region("headline cpu"))
    with pytest.raises(ValueError, match="expected a <!-- /report --> after each"):
        report.make()


def test_more_lines_than_can_be_told_apart() -> None:
    looks = plots.looks(["eager", "ours", "lpips", "ours, chunk 1", "eager"])
    assert len({str(look) for look in looks.values()}) == len(looks) == 4
    with pytest.raises(ValueError, match="expected up to 3 of ours and 6 rivals"):
        plots.looks([f"rival {i}" for i in range(7)])


def test_made_again_it_is_the_same(tmp_path: Path) -> None:
    text, _ = made(tmp_path, "compared loss 1x cpu")
    assert "4x256x256" not in text
    (tmp_path / "docs" / "page.md").write_text(text)
    assert [*pages.Report(tmp_path, tmp_path / "results").make().pages.values()] == [text]


def test_rows_measured_with_changes_are_not_shown(tmp_path: Path) -> None:
    text, _ = made(tmp_path, "compared loss cpu", [*ROWS[:2], *(row | {"dirty": "yes"} for row in ROWS[2:])])
    assert "4x256x256" not in text and "1x256x256" in text


def test_plain_pytorch_and_a_busy_machine_are_named(tmp_path: Path) -> None:
    rows = [row | {"form": "plain", "others_cpu": "0.84"} for row in ROWS[:2]]
    text, _ = made(tmp_path, "plain cpu", rows)
    assert "| loss 1x256x256 | 100 ms | 50 MB, 1/10 of 500 MB | 300 ms (3.00x) |" in text
    assert (
        "torch 2.13, in plain PyTorch; commit 0123; 2026-01-02; `make bench-plain`; other processes took up to 84%"
        in text
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nothing cpu", "expected one of headline, .*, got nothing"),
        ("compared loss gpu", "expected a CSV of bench/results, got gpu"),
        ("compared clips cpu", "report compared clips: expected rows in the CSV, got none"),
    ],
)
def test_regions_that_cannot_be_made(words: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        made(tmp_path, words)


def test_sentences(tmp_path: Path) -> None:
    large = [row | {"case": "16x256x256", "resident_mb": "2100"} for row in ROWS[2:]]
    text, _ = made(tmp_path, "style cpu", large)
    assert "in fp32 **60 MB of tensors instead of 2 GB, 3.25 times as fast** as eager PyTorch" in text
    assert "in bf16 **70 MB of tensors instead of 265 MB, 1.05 times as fast** as `torch.compile` (the process:" in text
    assert markdown.by_case(large[:2], "bf16") == {}
    assert sentences.style(large[:2]).endswith("(the process: 2.1 GB instead of 2.1 GB).")
    compiled = large[1] | {"variant": "compiled", "median_ms": "120", "ratio": "1.2", "allocated_mb": "1500"}
    assert sentences.style([*large[:2], compiled]).endswith(
        "GB); `torch.compile` takes 1.5 GB and 1.20 times our time."
    )
    of_a_gpu = [row | {"resident_mb": ""} for row in large[:2]]
    assert sentences.style(of_a_gpu).endswith("3.25 times as fast** as eager PyTorch.")


def test_what_adaptive_weights_gain(tmp_path: Path) -> None:
    rows = [
        row("adaptive", f"{weights} {size}", name, "fp32", ms, allocated_mb=mb)
        for weights, size, lpips in (
            ("1 weight", "2x128x128", 140),
            ("1 weight", "1x256x256", 130),
            ("2 weights", "2x128x128", 170),
        )
        for name, ms, mb in (("lpips", lpips, "250"), ("ours", 100, "100"))
    ]
    text, _ = made(tmp_path, "adaptive cpu", rows)
    assert "is 1.30 to 1.40 times as fast" in text and "1.70 times with two, in 1/2.5 of the memory" in text


def test_shares_of_a_step(tmp_path: Path) -> None:
    rows = [
        row("steps", "sr 4x128x128", name, "fp32", ms, allocated_mb="100")
        for name, ms in (("eager", 400), ("without the loss", 100), ("ours", 200))
    ]
    text, _ = made(tmp_path, "steps cpu", rows)
    assert "| sr 4x128x128 | eager fp32 | 400 ms | 100 ms | 75% | 100 MB |" in text
    assert "| sr 4x128x128 | ours fp32 | 200 ms | 100 ms | 50% | 100 MB |" in text


def test_ratios_beside_busy_processes(tmp_path: Path) -> None:
    other = row("loss", "1x256x256", "eager", "fp32", 700, busy="2", ratio="2.8", ratio_p20="2.5", ratio_p80="3.3")
    text, _ = made(tmp_path, "busy cpu", [*ROWS, other])
    assert "| loss 1x256x256 | eager fp32 | 3.00 [2.90-3.10] | 2.80 [2.50-3.30] |" in text
    own = other | {"variant": "ours, chunk 1"}
    alike = other | {"suite": "tiles"}
    assert len(markdown.busy([*ROWS, other, own, own | {"busy": "0"}, alike]).splitlines()) == 3


def test_rows_that_are_not_the_fastest_have_a_reason(tmp_path: Path) -> None:
    slower = row("metrics", "lpips-vgg forward 4x256x256", "compiled", "bf16", 90, ratio="0.93", ratio_p80="0.95")
    ours = row("metrics", "lpips-vgg forward 4x256x256", "ours", "bf16", 97, ratio="1")
    text, _ = made(tmp_path, "not-fastest cpu", [*ROWS, ours, slower])
    assert "| metrics lpips-vgg forward 4x256x256 | compiled bf16 | 0.93 | without a gradient" in text
    unknown = row("loss", "4x256x256", "piq", "fp32", 100, ratio="0.25")
    with pytest.raises(markdown.Unexplained, match="expected why piq fp32 takes less than ours in loss 4x256x256"):
        markdown.not_fastest([*ROWS, unknown])
    assert markdown.not_fastest(ROWS) == "None."


def test_a_row_whose_spread_includes_1_is_level() -> None:
    spread = {"ratio": "0.98", "ratio_p20": "0.96", "ratio_p80": "1.01"}
    rows = [
        row("loss", "4x256x256", "piq", "fp32", 98, **spread),
        row("loss", "4x256x256", "ours", "fp32", 100, ratio="1"),
    ]
    assert markdown.not_fastest(rows).endswith("| piq fp32 | 0.98 | level: 0.98 [0.96-1.01] over the pairs |")


def test_rows_that_take_less_memory_have_a_reason() -> None:
    compiled = row("steps", "sr 8x192x192", "compiled", "bf16", 110, ratio="1.1", allocated_mb="466")
    ours = row("steps", "sr 8x192x192", "ours", "bf16", 100, ratio="1", allocated_mb="547")
    assert "| compiled bf16 | 466 MB | 547 MB | the default chunk" in markdown.not_least([compiled, ours])
    with pytest.raises(markdown.Unexplained, match="expected why piq bf16 takes less than ours in steps sr 8x192x192"):
        markdown.not_least([compiled | {"variant": "piq"}, ours])
    assert markdown.not_least(ROWS) == "No rival takes less memory in any row."


@pytest.mark.parametrize(
    ("changed", "how"), [({"busy": "2"}, "on a busy machine"), ({"form": "plain"}, "in plain PyTorch")]
)
def test_rows_that_are_not_the_fastest_in_other_ways(changed: dict[str, str], how: str) -> None:
    case = "lpips-vgg 4x256x256"
    slower = row("metrics", case, "compiled", "fp32", 90, ratio="0.93", ratio_p80="0.95", **changed)
    ours = row("metrics", case, "ours", "fp32", 97, ratio="1", **changed)
    assert f"| metrics {case}, {how} | compiled fp32 | 0.93 |" in markdown.not_fastest([*ROWS, slower, ours])
    assert markdown.not_fastest([slower, ours | {"busy": "0", "form": "compiled"}]) == "None."  # two runs are no pair


def limits(variant: str, axis: str, *sizes: int, at_cap: str = "") -> list[results.Row]:
    return [
        MACHINE
        | {"loss": "dists", "axis": axis, "variant": variant, "dtype": "fp32", "limit_mb": str(limit)}
        | {"largest": str(size), "at_cap": at_cap}
        for limit, size in zip((1000, 2000), sizes, strict=True)
    ]


def test_what_fits(tmp_path: Path) -> None:
    rows = [*limits("ours", "batch", 300, 512, at_cap="yes"), *limits("DISTS_pytorch", "batch", 3, 7)]
    assert markdown.out_of_memory(rows).splitlines()[2:] == [
        "| dists | batch of 256x256 | DISTS_pytorch | 3 | 7 |",
        "| dists | batch of 256x256 | ours | at least 300 | at least 512 |",
    ]


def test_the_plot_of_what_fits(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws, is not installed")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(region("out-of-memory-plot dists cpu"))
    sides = [row | {"axis": "side"} for row in limits("ours", "batch", 2048, 4096, at_cap="yes")]
    rows = [*limits("ours", "batch", 300, 512), *limits("DISTS_pytorch", "batch", 0, 7), *sides]
    results.write(tmp_path / "results" / "cpu.csv", rows, out_of_memory.COLUMNS)
    report = pages.Report(tmp_path, tmp_path / "results").make()
    (text,) = report.plots.values()
    assert plots.data_of(text) == {
        "lines": {
            "largest batch": {"ours": [[1000.0, 300.0], [2000.0, 512.0]], "DISTS_pytorch": [[2000.0, 7.0]]},
            "largest side": {"ours": [[1000.0, 2048.0], [2000.0, 4096.0]]},
        },
        "at least": [["largest side", "ours", 1000.0], ["largest side", "ours", 2000.0]],
    }
    (page,) = report.pages.values()
    assert "](docs/plots/out-of-memory-dists.svg)" in page and "1 GB" in text
    assert "`make out-of-memory`. Arrows: at least this; the search ended there." in page


def test_plots_hold_their_numbers_and_are_the_same_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws, is not installed")
    text, report = made(tmp_path, "scaling-plot batch loss cpu")
    assert "![Time and memory of loss against the batch](plots/loss-batch.svg)" in text
    ((path, drawn),) = report.plots.items()
    assert path == tmp_path / "docs" / "plots" / "loss-batch.svg"
    assert plots.data_of(drawn)["lines"] == {
        "time": {"eager": [[1.0, 300.0], [4.0, 1300.0]], "ours": [[1.0, 100.0], [4.0, 400.0]]},
        "memory": {"eager": [[1.0, 500.0], [4.0, 2000.0]], "ours": [[1.0, 50.0], [4.0, 60.0]]},
    }
    assert [*pages.Report(tmp_path, tmp_path / "results").make().plots.values()] == [drawn]
    assert "<dc:date>" not in drawn and len(drawn) < 60_000


def test_a_changed_number_changes_the_page_and_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, which draws, is not installed")
    _, before = made(tmp_path, "scaling-plot batch loss cpu")
    results.write(tmp_path / "results" / "cpu.csv", [ROWS[0] | {"median_ms": "301"}, *ROWS[1:]])
    after = pages.Report(tmp_path, tmp_path / "results").make()
    old, new = (plots.data_of(*report.plots.values()) for report in (before, after))
    assert old != new

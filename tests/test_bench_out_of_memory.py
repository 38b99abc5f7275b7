"""The bench of what fits a limit of memory: its search, and what counts as refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bench_runs import CPU, in_this_process

from bench import out_of_memory, results
from bench.memory import in_fresh_process
from bench.suites import loss

pytestmark = pytest.mark.usefixtures("library")
AXES = {axis.name: axis for axis in out_of_memory.AXES}


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 31, 32, 33, 64, 100, 499, 511, 512, 10_000])
@pytest.mark.parametrize("start", [1, 4, 512])
def test_the_search_finds_the_largest_to_a_part_of_itself(limit: int, start: int) -> None:
    tried: list[int] = []

    def is_fit(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = out_of_memory.largest(is_fit, 512, start)
    wanted = min(limit, 512)
    assert wanted - max(1, wanted // out_of_memory.SHARE) < found <= wanted or found == wanted
    assert len(set(tried)) == len(tried) <= 16 and all(1 <= size <= 512 for size in tried)


def test_more_memory_is_searched_from_what_less_held(monkeypatch) -> None:
    tried: list[tuple[int, int]] = []

    def fits(function, case, name, limit, device) -> bool:
        tried.append((limit // 10**6, case.batch))
        return case.batch <= limit // 10**7

    monkeypatch.setattr(out_of_memory, "in_fresh_process", fits)
    case = out_of_memory.LOSSES["dists"]
    assert out_of_memory.search("ours fp32", case, AXES["batch"], [100, 200, 9000], 64, CPU) == [10, 20, 64]
    assert min(size for limit, size in tried if limit == 200) > 10  # what less held is known to fit
    tried.clear()
    assert out_of_memory.search("ours fp32", case, AXES["batch"], [900, 9000], 64, CPU) == [64, 64]
    assert {limit for limit, _ in tried} == {900}  # nothing is left to search


@pytest.mark.parametrize(("device", "more"), [("cpu", []), ("cuda", [143_771])])
def test_limits_of_a_gpu_end_with_the_card(device: str, more: list[int], monkeypatch) -> None:
    card = SimpleNamespace(total_memory=143_771_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert out_of_memory.parse(["--device", device]).limits == [1000, 2000, 4000, *more]
    assert out_of_memory.parse(["--device", device, "--limits", "500"]).limits == [500]


@pytest.mark.parametrize(
    "text", ["DefaultCPUAllocator: can't allocate memory: you tried to", "CUDA out of memory.", "std::bad_alloc"]
)
def test_refused_memory(text: str) -> None:
    assert out_of_memory.is_refusal(RuntimeError(text)) and out_of_memory.is_refusal(MemoryError())
    assert not out_of_memory.is_refusal(RuntimeError("no kernel for this input"))


def test_what_fits_and_what_does_not() -> None:
    """In processes whose memory is capped: a batch of 64 images of 64 x 64 is 3 MB thrice, and eager's maps 1 GB."""
    case = replace(out_of_memory.LOSSES["johnson-style"], height=64, width=64, batch=64)
    assert in_fresh_process(out_of_memory.fits, case, "ours fp32", 400 * 10**6, CPU)
    assert not in_fresh_process(out_of_memory.fits, case, "ours fp32", 20 * 10**6, CPU)
    assert not in_fresh_process(out_of_memory.fits, case, "eager fp32", 400 * 10**6, CPU)


@pytest.mark.parametrize("fails_always", [True, False])
def test_another_failure_is_an_error(fails_always: bool, monkeypatch) -> None:
    """An error that does not name memory is refused memory only where the call goes through without the cap."""
    capped: list[bool] = []

    class Broken(loss.LossCase):
        def call(self, name, device):
            if self.height > 64 and (fails_always or capped[-1]):
                raise RuntimeError("API call failed")
            return lambda: None

    def cap(limit, device):
        capped.append(True)
        return lambda: capped.append(False)

    monkeypatch.setattr(out_of_memory, "cap", cap)
    case = Broken(("ours fp32",), batch=1, height=96, width=96)
    if fails_always:
        with pytest.raises(RuntimeError, match="API call failed"):
            out_of_memory.fits(case, "ours fp32", 10**9, CPU)
    else:
        assert not out_of_memory.fits(case, "ours fp32", 10**9, CPU)


def test_losses_and_variants_that_are_compared() -> None:
    batch, side = (AXES[name].variants("dists", "cpu") for name in ("batch", "side"))
    assert out_of_memory.TILES not in batch and out_of_memory.TILES in side
    assert "piq fp32" not in side and "ours fp32" in batch
    assert AXES["side"].of(out_of_memory.LOSSES["dists"], 96).size == "1x96x96"


def test_end_to_end(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(out_of_memory, "in_fresh_process", in_this_process)
    monkeypatch.setattr(out_of_memory, "fits", lambda case, name, limit, device: case.batch <= limit // 10**7)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = ["--only", "dists batch", "--limits", "5000", "70", "--variants", "ours fp32", f"--out={tmp_path}"]
    assert out_of_memory.main(options) == 0
    (path,) = tmp_path.iterdir()
    rows = results.read(path)
    assert path.name.endswith("-out-of-memory.csv") and tuple(rows[0]) == out_of_memory.COLUMNS
    assert [(row["limit_mb"], row["largest"], row["at_cap"]) for row in rows] == [
        ("70", "7", ""),
        ("5000", "64", "yes"),
    ]
    assert "ours fp32" in capsys.readouterr().out

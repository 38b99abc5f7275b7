"""The host execution's tensor cores place elements as the traits of CuTe say, for every instruction that csrc has."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host.build import build
from host.mutants import ROOT
from host.primitives.launch import launch
from host.worker import run
from test_host_tensor_cores import bits16

HALF = "mma.sync.aligned.m16n8k16.row.col.f32.{0}.{0}.f32"
PRODUCTS = {"fp16": HALF.format("f16"), "bf16": HALF.format("bf16"), "tf32": HALF.format("tf32").replace("k16", "k8")}
LOADS = {
    "matrix load": "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
    "matrix load transposed": "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
}

Tables = dict[tuple[str, str], np.ndarray]


def headers() -> Path:
    spec = importlib.util.find_spec("cutlass_library")
    if spec is None or spec.origin is None:
        pytest.skip("CuTe not found: pip install --no-deps nvidia-cutlass")
    return Path(spec.origin).parent / "source" / "include"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """By instruction and operand: the element at (lane, value)."""
    if (nvcc := shutil.which("nvcc")) is None:
        pytest.skip("nvcc not found: CuTe includes headers of its toolkit")
    program = tmp_path_factory.mktemp("cute") / "layouts"
    source = ROOT / "tests" / "host" / "cute_layouts.cpp"
    subprocess.run([nvcc, "-std=c++17", "-O0", "-w", "-I", headers(), source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    rows: dict[tuple[str, str], list[list[int]]] = {}
    for line in printed.splitlines():
        instruction, operand, *numbers = line.split()
        rows.setdefault((instruction, operand), []).append(list(map(int, numbers)))
    return {key: np.array(found)[:, 2].reshape(32, -1) for key, found in rows.items()}


def test_every_instruction_of_the_kernels_has_a_table(tables: Tables) -> None:
    code = "".join(path.read_text() for path in (ROOT / "csrc").rglob("*.cuh"))
    used = set(re.findall(r'"((?:mma|wgmma|ldmatrix)\.[\w.]+)', code))
    assert used == {instruction for instruction, _ in tables} == {*PRODUCTS.values(), *LOADS.values()}


def placed(matrix: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The elements of a matrix (rows, columns) as (lane, value)."""
    return matrix.T.reshape(-1)[table]


def words(values: np.ndarray, kind: str) -> np.ndarray:
    """(lane, value) as registers, (words, 32)."""
    stored = values.astype(np.float32) if kind == "tf32" else bits16(values, kind)
    return np.ascontiguousarray(stored).view(np.uint32).T


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products(kind: str, tables: Tables) -> None:
    """No two elements of an operand are the same, and nothing is rounded."""
    a_table, b_table, c_table = (tables[PRODUCTS[kind], operand] for operand in "ABC")
    depth = 8 if kind == "tf32" else 16
    random = np.random.default_rng(0)
    a, b, c = (
        random.permutation(m * n).reshape(m, n).astype(np.float64) for m, n in ((16, depth), (8, depth), (16, 8))
    )
    given = [words(placed(a, a_table), kind), words(placed(b, b_table), kind), words(placed(c, c_table), "tf32")]
    (out,) = run(
        build("plain"), launch(f"product {kind}", np.concatenate([part.reshape(-1) for part in given]), 128, orders=2)
    )
    assert np.array_equal(out.view(np.float32).reshape(4, 32).T, placed(a @ b.T + c, c_table))


@pytest.mark.parametrize("name", LOADS)
def test_matrix_loads(name: str, tables: Tables) -> None:
    """Lane l points at row l of the matrices, which number their elements."""
    table = tables[LOADS[name], "to"]
    (out,) = run(build("plain"), launch(name, np.arange(256, dtype=np.uint16), 128))
    assert np.array_equal(out.reshape(-1, 32).T.copy().view(np.uint16), table)

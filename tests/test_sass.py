"""The machine code of every kernel holds what makes it fast: EXPECTED says what, for every architecture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from machine_code import code_of

from bench import cubins, sass
from bench.loops import flow_of, loops, main_loops
from bench.sass import Code, Instruction


@dataclass(frozen=True)
class Expected:
    """What the code of some kernels holds. Instructions as Instruction.is_a takes them.

    Attributes:
        kernels: Pattern of their names, * for any text.
        loop: Each must be in every main loop.
        anywhere: Each must be somewhere.
        never: None of these anywhere.
    """

    kernels: str
    loop: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()
    never: tuple[str, ...] = ("LDL", "STL")

    def complaints(self, code: Code) -> list[str]:
        mains = [[code[place] for place in places] for places in main_loops(code)] if self.loop else []
        return [
            *(
                f"no {one} in a main loop of {len(main)} instructions"
                for main in mains
                for one in _absent(self.loop, main)
            ),
            *(f"no {wanted}" for wanted in _absent(self.anywhere, code)),
            *(
                f"{one.opcode} at {sass.SIZE * place:#x}"
                for place, one in enumerate(code)
                if any(one.is_a(bad) for bad in self.never)
            ),
        ]


def _absent(wanted: Iterable[str], code: Code) -> list[str]:
    return [one for one in wanted if not any(instruction.is_a(one) for instruction in code)]


def expected_of(kernel: str, table: Iterable[Expected]) -> Expected | None:
    """The first row for a kernel."""
    return next((row for row in table if fnmatchcase(kernel, row.kernels)), None)


# The first row that fits a kernel counts; a new kernel needs one. A kernel on tensor cores has
# loop=("HMMA", "LDSM", "LDGSTS"), one that streams has anywhere=("LDG.128", "STG.128"). From sm_100 on the compiler
# joins two FFMA to one FFMA2.
EXPECTED = [
    Expected("gram_sum_kernel<double>*", loop=("DFMA", "LDS"), anywhere=("LDGSTS", "STG.128")),
    Expected("gram_gradient_kernel<double>*", loop=("DFMA", "LDS"), anywhere=("LDGSTS", "STG.128")),
    # ldmatrix cannot turn fp32: NHWC, where it would have to, reads single numbers.
    Expected("gram_sum_kernel<float>*", loop=("HMMA", "LDSM|LDS", "LDGSTS"), anywhere=("LDSM", "STG.128")),
    Expected("gram_sum_kernel<*", loop=("HMMA", "LDSM", "LDGSTS"), anywhere=("STG.128",)),
    Expected("gram_gradient_kernel<*", loop=("HMMA", "LDSM", "LDGSTS"), anywhere=("STG.128",)),
    Expected("gram_finish_kernel<*", loop=("LDG.128",), anywhere=("STG",)),
    Expected("style_finish_kernel<*", anywhere=("LDG.128", "STG")),
    Expected("symmetrise_kernel<*", loop=("LDG", "STG")),
    Expected("narrow_kernel<*", loop=("LDG",), anywhere=("STG",)),
    Expected("feature_loss_kernel<*Wanted)0*", anywhere=("LDG.128",)),
    Expected("feature_loss_kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("lpips_kernel<*, 0>", loop=("LDG.128",)),
    Expected("lpips_kernel<*", anywhere=("LDG.128", "STG.128")),
    # In fp32 and fp64 the loop over single elements is larger than that over packs.
    Expected("dists_kernel<__*", loop=("LDG.128",), anywhere=("STG",)),
    Expected("dists_kernel<*", anywhere=("LDG.128", "STG")),
    Expected("dists_backward_kernel<__*", loop=("LDG.128", "STG.128")),
    Expected("dists_backward_kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("channel_statistics_kernel<*", anywhere=("LDG.128", "STG")),
    Expected("channel_statistics_backward_kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("total_variation_kernel<*", anywhere=("LDG", "STG")),
    Expected("normalize_*kernel<*", anywhere=("LDG", "STG")),
    # Activations by groups of eight channels, and by single elements.
    Expected("bias_relu_*kernel<*, 8>", anywhere=("LDG.128", "STG.128")),
    Expected("bias_relu_*kernel<*, 1>", anywhere=("LDG", "STG")),
    Expected("relu_pool_kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("pool_backward_cell_kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("pool_*kernel<*, 8, Window<*", anywhere=("LDG.128", "STG.128")),
    Expected("pool_*kernel<*, 1, Window<*", anywhere=("LDG", "STG")),
    Expected("blur_kernel<*, 8, Window<*", anywhere=("LDG.128", "STG.128")),
    Expected("blur_kernel<*, 1, Window<*", anywhere=("LDG", "STG")),
    Expected("l2_pool_*kernel<*, 1>", anywhere=("LDG", "STG")),
    Expected("l2_pool_*kernel<*", anywhere=("LDG.128", "STG.128")),
    Expected("loss_scale_kernel*", anywhere=("LDG", "STG")),
]


@pytest.fixture
def library() -> None:
    if reason := cubins.missing():
        pytest.skip(reason)


def test_machine_code(library: None) -> None:
    complaints, kernels = [], set()
    for architecture, codes in sass.kernels().items():
        for name, code in zip(cubins.kernel_names(list(codes)), codes.values(), strict=True):
            row = expected_of(name, EXPECTED)
            said = row.complaints(code) if row else ["no row of EXPECTED in tests/test_sass.py is for it"]
            complaints += [f"{name} on sm_{architecture}: {sentence}" for sentence in said]
            kernels.add(name)
    assert kernels == {kernel.kernel for kernel in cubins.resources()}
    used = [expected_of(name, EXPECTED) for name in kernels]
    complaints += [f"{row.kernels}: no kernel of this name, take the row out" for row in EXPECTED if row not in used]
    assert not complaints, "\n".join(complaints)


def test_instructions_that_are_read_once_are_right_everywhere(library: None, tmp_path: Path) -> None:
    """The kernel of each architecture in which instructions repeat most, disassembled alone.

    Where a later architecture has more kinds of an instruction its name is longer.
    """
    for architecture, functions in cubins.functions().items():
        codes = sass.kernels()[architecture]
        symbol = min(codes, key=lambda one: len(set(codes[one])) / len(codes[one]))
        alone = sass.parse(sass.disassembly(architecture, functions[symbol].code, tmp_path))
        assert len(alone) > 100
        for one, exact in zip(codes[symbol], alone, strict=True):
            assert exact.is_a(one.opcode) and one._replace(opcode="") == exact._replace(opcode="")


# --- what the test sees -----------------------------------------------------------------------------------------------


# A prologue, an outer loop 0x20-0xb0 that promotes sums, in it the main loop 0x40-0x80, and a tail of products.
TENSOR_CORES = [
    "LDGSTS.E.BYPASS.128 [R20], desc[UR8][R22.64]",
    "S2R R10, SR_CTAID.X",
    "MOV R1, RZ",
    "LDGDEPBAR",
    "LDSM.16.M88.4 R16, [R20]",  # 0x40
    "LDGSTS.E.BYPASS.128 [R20+0x200], desc[UR8][R22.64+-0x200]",
    "HMMA.16816.F32.BF16 R8, R16, R6, R8",
    "UISETP.NE.AND UP0, UPT, UR7, URZ, UPT",
    "BRA.U UP0, 0x40",  # 0x80
    "FADD R3, R3, R8",
    "ISETP.GE.AND P0, PT, R1, c[0x0][0x188], PT",
    "@!P0 BRA 0x20",  # 0xb0
    "HMMA.16816.F32.BF16 R8, R16, R6, R8",
    "STG.E.128 desc[UR8][R2.64], R4",
    "EXIT",
    "BRA 0xf0",  # 0xf0: the endless loop after the end
]
ROW = Expected("*", loop=("HMMA.16816", "LDSM", "LDGSTS"), anywhere=("STG.128",))


def changed(old: str, new: str) -> list[str]:
    return [line.replace(old, new) for line in TENSOR_CORES]


def test_main_loop() -> None:
    (main,) = main_loops(code_of(*TENSOR_CORES))
    assert main == list(range(0x2, 0xC))
    flow = flow_of(code_of(*TENSOR_CORES))
    assert sorted(len(flow.places(body)) for body in loops(flow).values()) == [5, 10]
    assert ROW.complaints(code_of(*TENSOR_CORES)) == []


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (changed("HMMA", "FFMA"), "no HMMA.16816 in a main loop"),
        (changed("16816", "1688"), "no HMMA.16816 in a main loop"),
        (changed("LDSM.16.M88.4", "LDS.128"), "no LDSM in a main loop"),
        (changed("LDGSTS.E.BYPASS.128 [R20+", "LDG.E.128 R12, [R20+"), "no LDGSTS in a main loop"),  # not the first
        (changed("BRA", "NOP"), "no HMMA.16816 in a main loop of 0 instructions"),
        (changed("STG.E.128", "STG.E.64"), "no STG.128"),
        (changed("FADD R3, R3, R8", "STL.64 [R1+0x8], R8"), "STL.64 at 0x90"),
        (changed("MOV R1, RZ", "@P3 LDL R4, [R1]"), "LDL at 0x20"),
    ],
)
def test_a_missing_or_forbidden_instruction_is_found(lines: list[str], complaint: str) -> None:
    complaints = ROW.complaints(code_of(*lines))
    assert any(sentence.startswith(complaint) for sentence in complaints), complaints


def test_the_largest_loop_where_there_are_no_tensor_cores() -> None:
    code = code_of(
        "LDG.E R1, [R2]", "@P0 BRA 0x0", "NOP", "LDG.E.128.CONSTANT R4, [R2]", "NOP", "@P1 BRA P2, 0x20", "EXIT"
    )
    assert main_loops(code) == [[2, 3, 4, 5]]
    assert Expected("*", loop=("LDG.128|LDG.64",)).complaints(code) == []
    assert Expected("*", loop=("LDG.64",)).complaints(code)


def test_code_out_of_line_is_no_loop_and_belongs_to_its_loop() -> None:
    beside = code_of("MOV R1, RZ", "@P0 BRA 0x50", "NOP", "STG.E [R2], R1", "EXIT", "MOV R1, R3", "BRA 0x20")
    assert loops(flow_of(beside)) == {}
    inside = code_of(
        "NOP",
        "BSSY B0, 0x60",
        "@P0 BRA 0x80",
        "NOP",
        "BSYNC B0",
        "EXIT",
        "@P1 BRA 0x10",
        "EXIT",
        "LDG.E R1, [R2]",
        "BSYNC B0",
    )
    assert main_loops(inside) == [[1, 2, 3, 4, 6, 8, 9]]


def test_lines() -> None:
    assert code_of("NOP", "@!UP0 BRA.U 0x0", "LDG.E.128 R4, [R2+0x10]", "BRA P1, -0x20", "EXIT") == [
        Instruction(False, "NOP"),
        Instruction(True, "BRA.U", "", -1),
        Instruction(False, "LDG.E.128"),
        Instruction(False, "BRA", "P1", -5),
        Instruction(False, "EXIT"),
    ]


def test_an_architecture_without_instructions_of_its_own(tmp_path: Path) -> None:
    """What it has is already read, and nvdisasm refuses an empty file."""
    assert sass.parse(sass.disassembly(89, b"", tmp_path)) == []


def test_kernel_names() -> None:
    if cubins.tool("c++filt") is None:
        pytest.skip("c++filt not found: install binutils")
    symbols = [
        "_ZN14perceptual_ops18style_value_kernelIfLNS_8DistanceE2EEEvPKT_S4_llS2_S2_S2_bPS2_S5_",
        "_ZN14perceptual_ops12_GLOBAL__N_15plainEPf",
    ]
    assert cubins.kernel_names(symbols) == ["style_value_kernel<float, (Distance)2>", "plain"]

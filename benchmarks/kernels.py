"""What the GPU's kernels cost in instructions, counted in the machine code for each architecture, beside research's.

Rules:
- Compiled by Triton and disassembled by the tools that come with it; no GPU is needed and none is used. An instruction
  count is no time: what a card makes of it, `make bench-gpu` measures on the card.
- The search's hot loop is the longest one; what stands in it is counted whole, rare branches too, and divided by the two
  nonces of a thread. The mixes have no loop: their whole program is divided by the elements of a thread.
- The chains of the memory proof's fill have a loop, too, and all k hashes of a unit pass through it. Their count and that of
  a pass make rho, fill time over pass time, for some cards: by counted code, beside what `challenges.memory_fit` assumes.
- The ALU column counts what needs the 64 integer lanes of a multiprocessor, which bind. IMAD runs on other lanes.

Run: .venv/bin/python benchmarks/kernels.py [search|mixes|memory ...]   (make test-kernels installs Triton)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proofs import print_line

try:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError:
    print_line("Triton is not installed: `make test-kernels` installs it; nothing was compiled")
    sys.exit(3)

from challenges import matmul_kernels, memory_fit, memory_kernels, prng, sha256_kernel
from challenges.cuda_pow import STEPS
from challenges.hardware import PPM, HardwareTable
from challenges.memory_digest import BLOCK_WORDS
from challenges.memory_messages import UNIT_BYTES

ARCHITECTURES = (75, 80, 89, 90, 100)
WARP = 32
LANES_PER_CLOCK = 64
NONCES_PER_THREAD = sha256_kernel.NONCES_PER_STEP // (sha256_kernel.WARPS * WARP)
TILES = (16, 64, 128)
# Research's own Triton kernel: instructions per hash, and ALU instructions on sm_90.
RESEARCH_TOTAL: Mapping[int, int] = {80: 1074, 89: 1076, 90: 1078, 100: 1080}
RESEARCH_ALU = 948
# What the design of the memory proof says of a word, counted from its definition.
PASS_ALU_PLANNED = 7
WORD_BYTES = 4
CARDS = {
    "NVIDIA A100-SXM4-80GB": 80,
    "NVIDIA GeForce RTX 4090": 89,
    "NVIDIA L40S": 89,
    "NVIDIA H100 80GB HBM3": 90,
    "NVIDIA H200": 90,
    "NVIDIA B200": 100,
}
# Hashes per multiprocessor and clock that hashcat -m 1400 reaches at the median of 19 cards.
HASHCAT_PER_SM_CLOCK = 0.0624
ALU = frozenset(
    {"IADD3", "IADD", "ISETP", "LEA", "LOP3", "PLOP3", "PRMT", "SEL", "SHF", "VIADD", "VIADDMNMX", "VIMNMX"}
)

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LABEL = re.compile(r"\.(L_x?_?\w+):")
_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)(.*?);")


@dataclass(frozen=True, slots=True)
class Program:
    """One kernel's machine code: the opcodes in their order, the indices where loops begin and end, registers a thread."""

    opcodes: tuple[str, ...]
    loops: tuple[tuple[int, int], ...]
    registers: int

    @property
    def body(self) -> tuple[str, ...]:
        """Return all opcodes but those behind EXIT, which fill the last cache line."""
        return self.opcodes[: len(self.opcodes) - self.opcodes[::-1].index("EXIT")]

    @property
    def wide_accesses(self) -> int:
        """Return how many loads and stores of 128 bits a thread makes."""
        return sum(opcode.startswith(("LDG", "STG")) and ".128" in opcode for opcode in self.body)

    @property
    def hot_loop(self) -> tuple[str, ...]:
        """Return the opcodes of the longest loop; empty where there is none."""
        begin, end = max(self.loops, key=lambda loop: loop[1] - loop[0], default=(0, 0))
        return self.opcodes[begin:end]


def main() -> None:
    """Compile every kernel for every architecture and print the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parts: Mapping[str, Callable[[], None]] = {"search": _print_search, "mixes": _print_mixes, "memory": _print_memory}
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(parts)} (all)")
    wanted = parser.parse_args().parts or list(parts)
    print_line(
        f"command: python benchmarks/kernels.py {' '.join(wanted)}; Triton {triton.__version__}; no GPU, nothing is timed"
    )
    for name in wanted:
        parts[name]()


def _print_search() -> None:
    print_line("\nThe share search, instructions a hash in the hot loop:\n")
    print_line(
        "| architecture | all | research | ratio | ALU | research | bound, hashes/SM/clock | over hashcat | registers |"
    )
    print_line(
        "|:-------------|----:|---------:|------:|----:|---------:|-----------------------:|-------------:|----------:|"
    )
    for architecture in ARCHITECTURES:
        print_line(_search_row(architecture, compile_search(architecture)))


def _print_mixes() -> None:
    print_line("\nOperands and digests, instructions an element over the whole program:\n")
    print_line("| architecture | kernel      |  all | ALU | wide loads and stores, a thread | registers |")
    print_line("|:-------------|:------------|-----:|----:|--------------------------------:|----------:|")
    for architecture in ARCHITECTURES:
        block = matmul_kernels.BLOCK_ROWS * matmul_kernels.BLOCK_COLUMNS
        for salt_on_rows in (True, False):
            name = f"operand {'A' if salt_on_rows else 'B'}"
            program = compile_operand(architecture, salt_on_rows=salt_on_rows)
            print_line(_mix_row(architecture, name, program, block // (matmul_kernels.WARPS * WARP)))
        for tile in TILES:
            elements = tile * tile // (matmul_kernels.tile_warps(tile) * WARP)
            print_line(_mix_row(architecture, f"digest {tile}", compile_digest(architecture, tile), elements))


def _print_memory() -> None:
    fills = {architecture: compile_fill(architecture) for architecture in ARCHITECTURES}
    passes = {architecture: compile_pass(architecture) for architecture in ARCHITECTURES}
    units = memory_kernels.UNITS_PER_PROGRAM // (memory_kernels.FILL_WARPS * WARP)
    words = BLOCK_WORDS // (memory_kernels.DIGEST_WARPS * WARP)
    print_line(
        "\nThe memory proof, instructions a hash of the fill (its loop) and a word of a pass (the whole program):\n"
    )
    print_line(
        "| architecture | fill: all | ALU | assumed | registers | pass: all | ALU | planned | wide loads | registers |"
    )
    print_line(
        "|:-------------|----------:|----:|--------:|----------:|----------:|----:|--------:|-----------:|----------:|"
    )
    hash_alu, word_alu = {}, {}
    for architecture, fill in fills.items():
        read = passes[architecture]
        hash_alu[architecture], word_alu[architecture] = _alu(fill.hot_loop) / units, _alu(read.body) / words
        print_line(
            f"| sm_{architecture:<9} | {len(fill.hot_loop) / units:7.1f} | {hash_alu[architecture]:6.1f} "
            f"| {memory_fit.OPERATIONS_PER_HASH} | {fill.registers} | {len(read.body) / words:4.1f} "
            f"| {word_alu[architecture]:3.1f} | {PASS_ALU_PLANNED} | {read.wide_accesses} | {read.registers} |"
        )
    print_line("\nrho by these counts, vendors' clocks and 0.9 of vendors' bandwidths; no card was measured:\n")
    print_line("| card | k | fill, GB/s of units | words/SM/clock: memory | integer lanes | rho | assumed rho |")
    print_line("|:-----|--:|--------------------:|-----------------------:|--------------:|----:|------------:|")
    for name, architecture in CARDS.items():
        print_line(_ratio_row(name, hash_alu[architecture], word_alu[architecture]))
    print_line("\nThe tree of a pass, instructions and registers of the whole program:\n")
    for architecture in ARCHITECTURES:
        leaves, nodes = compile_leaves(architecture), compile_nodes(architecture)
        print_line(
            f"| sm_{architecture:<9} | leaves {len(leaves.hot_loop)} a block of 64 bytes, {leaves.registers} registers "
            f"| nodes {len(nodes.body)}, {nodes.registers} registers |"
        )


def _ratio_row(name: str, hash_alu: float, word_alu: float) -> str:
    """Make, read by memory, read by the integer lanes, and the slower of both over the first."""
    model = HardwareTable.load().models[name]
    hashes = memory_fit.hashes_for(model)
    clocks = model.sm_count * model.boost_hz
    fill = clocks * LANES_PER_CLOCK * UNIT_BYTES / hash_alu / hashes
    by_memory, by_lanes = model.memory_rate_expected / WORD_BYTES / clocks, LANES_PER_CLOCK / word_alu
    rho = min(by_memory, by_lanes) * clocks * WORD_BYTES / fill
    assumed = memory_fit.fill_ratio_ppm(model, hashes) / PPM
    return f"| {name} | {hashes} | {fill / 1e9:.1f} | {by_memory:.2f} | {by_lanes:.2f} | {rho:.1f} | {assumed:.1f} |"


def compile_search(architecture: int) -> Program:
    """Compile the share search as `CudaPowBackend` launches it."""
    return _compile(
        sha256_kernel.search_shares, ("count", "candidates"), {"steps": STEPS}, sha256_kernel.WARPS, architecture
    )


def compile_operand(architecture: int, *, salt_on_rows: bool) -> Program:
    """Compile one operand as `FusedMixes` launches it."""
    constants = {
        "shift": prng.A_SHIFT if salt_on_rows else prng.B_SHIFT,
        "salt_on_rows": salt_on_rows,
        "rows_each": matmul_kernels.BLOCK_ROWS,
        "columns_each": matmul_kernels.BLOCK_COLUMNS,
    }
    out = "*bf16" if architecture >= 80 else "*fp16"
    pointers = {"out": out, "row_keys": "*i32", "column_keys": "*i32", "salts": "*i32"}
    return _compile(matmul_kernels.fill_operand, pointers, constants, matmul_kernels.WARPS, architecture, aligned=True)


def compile_digest(architecture: int, tile: int) -> Program:
    """Compile the digest as `FusedMixes` launches it."""
    pointers = {"product": "*fp32", "row_keys": "*i32", "column_keys": "*i32", "lanes": "*i32"}
    warps = matmul_kernels.tile_warps(tile)
    return _compile(matmul_kernels.digest_tiles, pointers, {"tile": tile}, warps, architecture, aligned=True)


def compile_fill(architecture: int) -> Program:
    """Compile the fill as `CudaMemoryBackend` launches it."""
    constants = {"units_each": memory_kernels.UNITS_PER_PROGRAM}
    return _compile(memory_kernels.fill_units, ("out",), constants, memory_kernels.FILL_WARPS, architecture)


def compile_pass(architecture: int) -> Program:
    """Compile the digest of blocks as `CudaMemoryBackend` launches it."""
    pointers = dict.fromkeys(("words", "row_keys", "column_keys", "lanes"), "*i32")
    warps = memory_kernels.DIGEST_WARPS
    return _compile(memory_kernels.digest_blocks, pointers, {}, warps, architecture, aligned=True)


def compile_leaves(architecture: int) -> Program:
    """Compile the hashes of leaves as `CudaMemoryBackend` launches them."""
    constants = {"leaves_each": memory_kernels.LEAVES_PER_PROGRAM}
    return _compile(memory_kernels.hash_leaves, ("digests", "out"), constants, memory_kernels.TREE_WARPS, architecture)


def compile_nodes(architecture: int) -> Program:
    """Compile a level of the tree as `CudaMemoryBackend` launches it."""
    constants = {"nodes_each": memory_kernels.LEAVES_PER_PROGRAM}
    return _compile(memory_kernels.hash_nodes, ("hashes", "out"), constants, memory_kernels.TREE_WARPS, architecture)


def _compile(
    kernel: triton.JITFunction,
    pointers: Mapping[str, str] | Iterable[str],
    constants: Mapping[str, int],
    warps: int,
    architecture: int,
    *,
    aligned: bool = False,
) -> Program:
    types = dict(pointers) if isinstance(pointers, Mapping) else dict.fromkeys(pointers, "*i32")
    signature = {name: types.get(name, "constexpr" if name in constants else "i32") for name in kernel.arg_names}
    hints = {}
    if aligned:
        # torch aligns what it allocates, and n is a multiple of 16.
        names = [*types, *(["n"] if "n" in kernel.arg_names else [])]
        hints = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in names}
    compiled = triton.compile(
        ASTSource(kernel, signature, constexprs=dict(constants), attrs=hints),
        target=GPUTarget("cuda", architecture, WARP),
        options={"num_warps": warps},
    )
    return _disassemble(compiled.asm["cubin"])


def _disassemble(cubin: bytes) -> Program:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _tool("nvdisasm", "-c", file.name)
        usage = _tool("cuobjdump", "-res-usage", file.name)
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise ValueError(f"cuobjdump says no registers: {usage[:200]}")
    return _parse(text, int(registers[1]))


def _parse(text: str, registers: int) -> Program:
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            opcodes.append(instruction[1])
            target = re.search(r"`\(\.(\w+)\)", instruction[2])
            # A branch to itself stands behind every program's end.
            if instruction[1].startswith("BRA") and target and labels.get(target[1], len(opcodes)) < len(opcodes) - 1:
                loops.append((labels[target[1]], len(opcodes)))
    return Program(tuple(opcodes), tuple(loops), registers)


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def _alu(opcodes: Iterable[str]) -> int:
    return sum(opcode.split(".")[0] in ALU for opcode in opcodes)


def _search_row(architecture: int, program: Program) -> str:
    total = len(program.hot_loop) / NONCES_PER_THREAD
    alu = _alu(program.hot_loop) / NONCES_PER_THREAD
    research = RESEARCH_TOTAL.get(architecture)
    bound = LANES_PER_CLOCK / alu
    return (
        f"| sm_{architecture:<9} | {total:6.1f} | {research or '':>4} | {f'{total / research:.3f}' if research else '':>5} "
        f"| {alu:5.1f} | {RESEARCH_ALU if research else '':>3} | {bound:.4f} | {bound / HASHCAT_PER_SM_CLOCK:.2f} "
        f"| {program.registers} |"
    )


def _mix_row(architecture: int, name: str, program: Program, elements: int) -> str:
    opcodes = program.body
    return (
        f"| sm_{architecture:<9} | {name:11} | {len(opcodes) / elements:4.1f} | {_alu(opcodes) / elements:4.1f} "
        f"| {program.wide_accesses:2} | {program.registers} |"
    )


if __name__ == "__main__":
    main()

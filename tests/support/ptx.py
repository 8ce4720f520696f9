"""A small interpreter of PTX: as many instructions as our own kernel has, one thread after another, on integers.

It reads the very text that goes to the driver. An instruction, register or label that it does not know is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_LINE = re.compile(r"(?:@(?P<guard>%\w+)\s+)?(?P<name>[a-z][\w.]*)\s*(?P<operands>[^;]*);")
_WORD, _LONG = (1 << 32) - 1, (1 << 64) - 1


def run_thread(  # noqa: PLR0912  a branch for each instruction
    text: str, parameters: Mapping[str, int], special: Mapping[str, int], steps_max: int = 100_000
) -> dict[int, int]:
    """Run one thread of the only kernel in a text.

    Args:
        text: The whole module.
        parameters: The kernel's, by name.
        special: Registers that tell a thread its place, for example "%tid.x".
        steps_max: A kernel that takes more does not end.

    Returns:
        What it stored: address -> 32-bit word.
    """
    body = text[text.index("{") + 1 : text.rindex("}")]
    code: list[tuple[str | None, str, list[str]]] = []
    labels: dict[str, int] = {}
    for line in (raw.strip() for raw in body.splitlines()):
        if line.endswith(":"):
            labels[line[:-1]] = len(code)
        elif line and not line.startswith(".reg"):
            found = _LINE.fullmatch(line)
            assert found is not None, line
            code.append((found["guard"], found["name"], [part.strip() for part in found["operands"].split(",")]))
    registers: dict[str, int] = dict(special)
    stored: dict[int, int] = {}

    def value(operand: str) -> int:
        return registers[operand] if operand.startswith("%") else int(operand)

    at = 0
    for _ in range(steps_max):
        guard, name, operands = code[at]
        at += 1
        if guard is not None and not registers[guard]:
            continue
        match name, operands:
            case "ret", _:
                return stored
            case "bra", [label]:
                at = labels[label]
            case (("ld.param.u32" | "ld.param.u64"), [to, source]):
                registers[to] = parameters[source.strip("[]")]
            case "mov.u32", [to, source]:
                registers[to] = value(source)
            case "mad.lo.u32", [to, a, b, c]:
                registers[to] = (value(a) * value(b) + value(c)) & _WORD
            case "mul.lo.u32", [to, a, b]:
                registers[to] = value(a) * value(b) & _WORD
            case "mul.wide.u32", [to, a, b]:
                registers[to] = value(a) * value(b)
            case "add.u64", [to, a, b]:
                registers[to] = (value(a) + value(b)) & _LONG
            case "sub.u32", [to, a, b]:
                registers[to] = (value(a) - value(b)) & _WORD
            case "xor.b32", [to, a, b]:
                registers[to] = value(a) ^ value(b)
            case "shr.u32", [to, a, b]:
                registers[to] = value(a) >> value(b)
            case "setp.ne.u32", [to, a, b]:
                registers[to] = int(value(a) != value(b))
            case "st.global.u32", [place, source]:
                stored[value(place.strip("[]"))] = value(source)
            case _:
                raise AssertionError(f"unknown instruction {name} {operands}")
    raise AssertionError("the kernel does not end")

"""The cost of a compiled program on one device, read from its text: operations, memory traffic, messages.

XLA's own cost analysis counts the body of a loop once; here it counts once for each iteration.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SUBAXIS = r"'(\w+)'(?::\((\d+)\)(\d+))?"
_FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"))


class Collective(NamedTuple):
    """Messages of one kind between groups of one size.

    Attributes:
      kind: one of `COLLECTIVES`.
      group: devices that take part together.
      span: from the first to the last of them, in the order of the mesh; as large as `group` for adjacent ones.
    """

    kind: str
    group: int
    span: int


class Program(NamedTuple):
    """The cost of one execution of a program on one device.

    Attributes:
      flops: of matrix products and convolutions; a multiplication and an addition are two.
      bytes: read and written by operations that the compiler did not fuse, at most.
      collectives: bytes of results, by kind and group.
    """

    flops: float
    bytes: float
    collectives: Mapping[Collective, float]


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    rest: str


_Computation = list[_Instruction]


def read(text: str) -> Program:
    """Reads the text of a compiled module, as `jax.stages.Compiled.as_text` gives it.

    Raises:
      ValueError: if it has no entry computation.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("The text is not that of a compiled program: it has no ENTRY computation.")
    return _Walk(computations).total(entry, fused=False)


class _Walk:
    """Sums the costs of computations, each of which is read once."""

    def __init__(self, computations: Mapping[str, _Computation]) -> None:
        self._computations = computations
        self._known: dict[tuple[str, bool], Program] = {}

    def total(self, name: str, *, fused: bool) -> Program:
        """Returns the cost of a computation and all that it calls; a fusion has no memory traffic inside."""
        if (name, fused) not in self._known:
            instructions = self._computations[name]
            types = {instruction.name: instruction.type for instruction in instructions}
            parts = [part for i in instructions for part in self._parts(i, types, fused)]
            self._known[name, fused] = _sum(parts)
        return self._known[name, fused]

    def _parts(self, instruction: _Instruction, types: Mapping[str, str], fused: bool) -> Iterator[Program]:
        yield _own(instruction, types, fused)
        times = _trips(instruction)
        inside = fused or instruction.opcode == "fusion"
        for role, called in _CALLED.findall(instruction.rest):
            if role == "to_apply" and instruction.opcode != "call":
                continue  # what a reduction applies to two numbers
            yield _scaled(self.total(called, fused=inside), times)
        branches = [self.total(name, fused=inside) for name in _branch_names(instruction.rest)]
        if branches:
            yield max(branches, key=lambda branch: branch.flops)


def _computations(text: str) -> tuple[dict[str, _Computation], str | None]:
    found: dict[str, _Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = found.setdefault(header[1], [])
            entry = header[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            parsed = _INSTRUCTION.match(line)
            if parsed:
                current.append(_Instruction(*parsed.groups()))
    return found, entry


def _own(instruction: _Instruction, types: Mapping[str, str], fused: bool) -> Program:
    """Returns the cost of an instruction itself, without the computations that it calls."""
    opcode = instruction.opcode.removesuffix("-start")
    flops = {"dot": _dot_flops, "convolution": _convolution_flops}.get(opcode, lambda *_: 0.0)(instruction, types)
    moved = 0.0
    if not fused and opcode not in _FREE and not opcode.endswith("-done"):
        moved = num_bytes(instruction.type) + sum(num_bytes(types.get(name, "")) for name in _operands(instruction))
    messages: dict[Collective, float] = {}
    if opcode in COLLECTIVES:
        group, span = _group(instruction.rest)
        if group > 1:
            messages[Collective(opcode, group, span)] = float(num_bytes(instruction.type))
    return Program(flops, moved, messages)


def num_bytes(type: str) -> int:
    """Returns the bytes of an array type such as `f32[8,128]{1,0}`, or of all arrays of a tuple."""
    return sum(_itemsize(dtype) * math.prod(_numbers(shape)) for dtype, shape in _ARRAY.findall(type))


def _itemsize(dtype: str) -> int:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.fullmatch(r"[a-z]+(\d+)\w*", dtype)  # s32, u8, f8e4m3fn
    return max(1, int(bits[1]) // 8) if bits else 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _shape(type: str) -> list[int]:
    array = _ARRAY.search(type)
    return _numbers(array[2]) if array else []


def _operands(instruction: _Instruction) -> list[str]:
    """The names before the parenthesis that closes the list of operands."""
    depth, end = 1, 0
    for end, letter in enumerate(instruction.rest):  # noqa: B007
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            break
    return re.findall(r"%([\w.\-]+)", instruction.rest[:end])


def _dot_flops(instruction: _Instruction, types: Mapping[str, str]) -> float:
    left = _shape(types[_operands(instruction)[0]])
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    return (
        2.0
        * math.prod(_shape(instruction.type))
        * math.prod(left[i] for i in _numbers(contracted[1] if contracted else ""))
    )


def _convolution_flops(instruction: _Instruction, types: Mapping[str, str]) -> float:
    """Returns the FLOPs of a convolution: each output is a sum over the kernel's window and input features.

    Zeros between dilated inputs are not counted.
    """
    kernel = _shape(types[_operands(instruction)[1]])
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.rest)
    assert labels is not None
    dilation = re.search(r"lhs_dilate=([\dx]+)", instruction.rest)
    zeros = math.prod(_numbers(dilation[1])) if dilation else 1
    return 2.0 * math.prod(_shape(instruction.type)) * math.prod(kernel) / kernel[labels[1].index("o")] / zeros


def _trips(instruction: _Instruction) -> int:
    known = _TRIPS.search(instruction.rest) if instruction.opcode == "while" else None
    return int(known[1]) if known else 1


def _branch_names(rest: str) -> list[str]:
    return [
        name for many, one in _BRANCHES.findall(rest) for name in (re.findall(r"[\w.\-]+", many) if many else [one])
    ]


def _group(rest: str) -> tuple[int, int]:
    """Size and span of the first group of a collective, written as lists, pairs, a tiling or axes of a mesh."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    if pairs:
        numbers = _numbers(pairs[1])
        return 2, max(abs(a - b) for a, b in zip(numbers[::2], numbers[1::2], strict=True)) + 1
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return _extent(_numbers(listed[1]))
    named = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", rest)
    if named:
        positions = _along(re.findall(r"'(\w+)'=(\d+)", named[1]), re.findall(_SUBAXIS, named[3]))
        order = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", named[2] or "")
        return _extent([_of_tiling(p, _numbers(order[1]), _numbers(order[2] or "")) if order else p for p in positions])
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if tiled:
        _, size = _numbers(tiled[1])
        return _extent([_of_tiling(p, _numbers(tiled[2]), _numbers(tiled[3] or "")) for p in range(size)])
    raise ValueError(f"The devices of a collective cannot be read: {rest[:200]}.")


def _extent(group: list[int]) -> tuple[int, int]:
    return len(group), max(group) - min(group) + 1


def _along(axes: list[tuple[str, str]], named: list[tuple[str, str, str]]) -> list[int]:
    """Positions of the first group in a mesh: along the named axes, or parts of them, (size before, size)."""
    group, stride = [0], 1
    for name, size in reversed(axes):
        for before, part in [(before, part) for other, before, part in named if other == name]:
            step = stride * (int(size) // (int(before) * int(part)) if part else 1)
            group = [position + i * step for position in group for i in range(int(part or size))]
        stride *= int(size)
    return group


def _of_tiling(position: int, shape: list[int], order: list[int]) -> int:
    """The device at a position of iota(shape), transposed by `order` and flattened."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    device = 0
    for axis in reversed(order or range(len(shape))):
        position, digit = divmod(position, shape[axis])
        device += digit * strides[axis]
    return device


def _sum(parts: list[Program]) -> Program:
    collectives: dict[Collective, float] = {}
    for part in parts:
        for kind, size in part.collectives.items():
            collectives[kind] = collectives.get(kind, 0.0) + size
    return Program(sum(part.flops for part in parts), sum(part.bytes for part in parts), collectives)


def _scaled(part: Program, times: int) -> Program:
    return Program(part.flops * times, part.bytes * times, {k: size * times for k, size in part.collectives.items()})

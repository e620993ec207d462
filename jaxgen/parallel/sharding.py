"""Shardings of states: ordered rules over parameter names for `tensor`, then `fsdp` by size.

The first rule that matches a parameter's whole name says which of its last dimensions is split over which axis. Then
`fsdp`, unless a rule has placed it, splits the dimension that `tensor` has, or else the largest one that it divides.
Never do the two split different dimensions of one array: in a layer whose input is split over `tensor`, too, XLA
(jaxlib 0.10) would compute wrong gradients. Optimizer states and averages lie as their parameters do; everything else
is copied to every device.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from jaxgen.core import trees
from jaxgen.core.contract import TrainState
from jaxgen.parallel.mesh import FSDP, TENSOR, replicated

WHOLE = "whole"
"""In the place of axes: the parameters are not split at all."""


class ShardingRule(NamedTuple):
    """A rule that says over which axes the parameters of some names are split.

    Attributes:
      pattern: regular expression of whole parameter names.
      axes: `fsdp`, `tensor` or None for each of the last dimensions, one of them an axis at most; `()` to leave all to
        `fsdp`; or `WHOLE`. An axis that does not divide its dimension is left out; parameters of fewer dimensions are
        none of this rule's.
      at_least: the size from which on a dimension is split by this rule.
    """

    pattern: str
    axes: tuple[str | None, ...] | str
    at_least: int = 1


WIDE = 512
"""From as many output channels on, convolutions are split over `tensor`."""

DEFAULT_RULES = (
    # Megatron-LM (Shoeybi et al. 2019, section 3): heads and hidden units are split, their outputs summed.
    ShardingRule(r".*attention/qkv/(kernel|bias)", (TENSOR, None)),  # [.., heads, head size]
    ShardingRule(r".*attention/out/kernel", (TENSOR, None)),
    ShardingRule(r".*mlp/in/(kernel|bias)", (TENSOR,)),
    ShardingRule(r".*mlp/out/kernel", (TENSOR, None)),
    ShardingRule(r".*/kernel", (None, None, None, TENSOR), WIDE),
    ShardingRule(r".*", ()),
)


class Sharding(NamedTuple):
    """The layout of states on a mesh.

    Attributes:
      mesh: the devices.
      rules: in order; all parameters must be covered.
      min_elements: smaller arrays are not split over `fsdp`, since they are not worth the messages.
    """

    mesh: Mesh
    rules: tuple[ShardingRule, ...] = DEFAULT_RULES
    min_elements: int = 4096


def parse_rules(rules: tuple[Any, ...]) -> tuple[ShardingRule, ...]:
    """Returns the rules of a config, each `(pattern, axes)` or `(pattern, axes, at_least)`; by default `DEFAULT_RULES`.

    Raises:
      ValueError: names the first that is wrong.
    """
    return tuple(map(_parse_rule, rules)) or DEFAULT_RULES


def _parse_rule(rule: Any) -> ShardingRule:
    try:
        parsed = ShardingRule(*rule)
        re.compile(parsed.pattern)
        allowed = parsed.axes == WHOLE or {*parsed.axes} <= {None, FSDP, TENSOR}
        axes = [] if parsed.axes == WHOLE else [axis for axis in parsed.axes if axis is not None]
    except (TypeError, re.error) as error:
        raise ValueError(f"parallel.rules has {rule!r}, but {_A_RULE}: {error}.") from error
    if not allowed or len(axes) > 1 or not isinstance(parsed.at_least, int):
        raise ValueError(f"parallel.rules has {rule!r}, but {_A_RULE}.")
    return parsed


_A_RULE = (
    f"a rule is (pattern, axes) or (pattern, axes, at_least), axes being {WHOLE!r} or a tuple with one {FSDP!r} or "
    f"{TENSOR!r} at most, and None for other dimensions"
)


def state_shardings(sharding: Sharding, state: TrainState) -> TrainState:
    """Returns a sharding for each leaf of a state (arrays or shapes).

    Raises:
      ValueError: if no rule matches a parameter, or one of the config's rules is never used.
    """
    params = trees.named_leaves(state.params)
    specs = parameter_specs(sharding, {name: leaf.shape for name, leaf in params.items()})
    owners = _Owners({name: leaf.shape for name, leaf in params.items()})

    def place(name: str, leaf: Any) -> NamedSharding:
        owner = owners.find(name, leaf.shape)
        return replicated(sharding.mesh) if owner is None else NamedSharding(sharding.mesh, specs[owner])

    others = trees.map_named(place, state._replace(params=(), frozen=()))
    return others._replace(
        params=trees.map_named(lambda name, _: NamedSharding(sharding.mesh, specs[name]), state.params),
        frozen=frozen_shardings(sharding, state.frozen),
    )


def frozen_shardings(sharding: Sharding, frozen: PyTree) -> PyTree:
    """Returns a sharding for each leaf of `TrainState.frozen`, by the rules for parameters and the name in its role.

    Leaves that no rule matches are left to `fsdp`.
    """

    def place(name: str, leaf: Any) -> NamedSharding:
        rank, own_name = len(leaf.shape), name.partition("/")[2]
        rule = next((rule for rule in sharding.rules if _matches(rule, own_name, rank)), ShardingRule(".*", ()))
        return NamedSharding(sharding.mesh, _spec(sharding, rule, leaf.shape))

    return trees.map_named(place, frozen)


def parameter_specs(sharding: Sharding, shapes: dict[str, tuple[int, ...]]) -> dict[str, P]:
    """Returns the partition of each parameter, by name.

    Raises:
      ValueError: if no rule matches a parameter, or one of the config's rules is never used.
    """
    chosen = {name: _first_rule(sharding.rules, name, len(shape)) for name, shape in shapes.items()}
    unused = [rule.pattern for rule in sharding.rules if rule not in chosen.values()]
    if unused and sharding.rules is not DEFAULT_RULES:
        raise ValueError(
            f"parallel.rules has the pattern {unused[0]!r}, which is the first to match no parameter; there are: "
            f"{', '.join(shapes)}."
        )
    return {name: _spec(sharding, chosen[name], shape) for name, shape in shapes.items()}


def _first_rule(rules: tuple[ShardingRule, ...], name: str, rank: int) -> ShardingRule:
    for rule in rules:
        if _matches(rule, name, rank):
            return rule
    raise ValueError(f"parallel.rules says nothing of the parameter {name}: add a rule, such as ('.*', ()) at the end.")


def _matches(rule: ShardingRule, name: str, rank: int) -> bool:
    return re.fullmatch(rule.pattern, name) is not None and (rule.axes == WHOLE or len(rule.axes) <= rank)


def _spec(sharding: Sharding, rule: ShardingRule, shape: tuple[int, ...]) -> P:
    if isinstance(rule.axes, str):
        return P()
    sizes = sharding.mesh.shape
    axes: list[Any] = [None] * len(shape)
    for i, axis in zip(range(len(shape) - 1, -1, -1), reversed(rule.axes), strict=False):
        if axis and sizes[axis] > 1 and shape[i] % sizes[axis] == 0 and shape[i] >= rule.at_least:
            axes[i] = axis
    if FSDP not in rule.axes and sizes[FSDP] > 1 and math.prod(shape) >= sharding.min_elements:
        _add_fsdp(axes, shape, sizes)
    return P(*axes)


def _add_fsdp(axes: list[Any], shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
    """Adds `fsdp` to a partition, if it divides a dimension."""
    if TENSOR in axes:
        i = axes.index(TENSOR)
        if shape[i] % (sizes[TENSOR] * sizes[FSDP]) == 0:
            axes[i] = (TENSOR, FSDP)
        return
    fitting = [i for i, size in enumerate(shape) if size % sizes[FSDP] == 0]
    if fitting:
        axes[max(fitting, key=lambda i: shape[i])] = FSDP


class _Owners:
    """A lookup of the parameter that a leaf of an optimizer state or an average belongs to.

    Such a leaf has the parameter's shape, and the parts of its name in their order: `discriminator/0/mu/conv/kernel`
    belongs to `discriminator/conv/kernel`.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._candidates: dict[tuple[tuple[int, ...], str], list[str]] = {}
        for name, shape in shapes.items():
            self._candidates.setdefault((shape, name.rpartition("/")[2]), []).append(name)

    def find(self, name: str, shape: tuple[int, ...]) -> str | None:
        """Returns the name of the leaf's parameter, the longest one of several, or None."""
        parts = name.split("/")
        candidates = self._candidates.get((tuple(shape), parts[-1]), [])
        return max((c for c in candidates if _is_subsequence(c.split("/"), parts)), key=len, default=None)


def _is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(part in rest for part in short)

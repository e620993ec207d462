"""Functions of images over a mesh while the images come in, so that no more than a few batches are held."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree, Shaped

from jaxgen.core import keys as key_tools
from jaxgen.parallel.sampling import map_batches, on_mesh, rows_of_call


class StreamedMap:
    """Applies `fn(keys, variables, rows)` to rows as they come, in batches of one shape, as `map_batches` does to all.

    The results are those of `map_batches` for all rows at once, in calls of the same batches.
    """

    def __init__(
        self,
        fn: Callable[..., Array],
        mesh: Mesh,
        variables: PyTree,
        *,
        key: Key[Array, ""],
        count: int,
        batch_size: int,
        take: Callable[[PyTree, np.ndarray], None],
    ) -> None:
        """Makes the map.

        Args:
          fn: a function whose row i depends on key i and row i alone.
          mesh: the devices.
          variables: shared by all rows.
          key: row i has the key `core.keys.per_example(key, i)`.
          count: the number of all rows.
          batch_size: rows in a call, as of `map_batches`.
          take: is given the rows of each call, and their results.
        """
        self._size = rows_of_call(mesh, batch_size, count)
        self._fn, self._mesh, self._key, self._take = fn, mesh, key, take
        self._variables = on_mesh(mesh, variables)
        self._count, self._done = count, 0
        self._waiting: list[PyTree] = []

    def add(self, rows: PyTree) -> None:
        """Takes a tree of the next rows, NumPy arrays [b, ...]; the last ones complete the work."""
        self._waiting.append(rows)
        held = sum(len(jax.tree.leaves(part)[0]) for part in self._waiting)
        ready = held if self._done + held == self._count else held - held % self._size
        if not ready:
            return
        whole = jax.tree.map(lambda *parts: np.concatenate(parts), *self._waiting)
        for start in range(0, ready, self._size):
            self._call(_cut(whole, start, min(start + self._size, ready)), self._done + start)
        self._waiting = [_cut(whole, ready, held)]
        self._done += ready

    def _call(self, rows: PyTree, first: int) -> None:
        count = len(jax.tree.leaves(rows)[0])
        row_keys = key_tools.per_example(self._key, jnp.arange(first, first + count))
        calls = map_batches(
            self._fn, self._mesh, row_keys, self._variables, rows, batch_size=self._size, of=self._count
        )
        self._take(rows, next(calls))


def _cut(rows: PyTree, start: int, end: int) -> PyTree:
    def cut(x: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        return x[start:end]

    return jax.tree.map(cut, rows)

"""Arrays that an evaluation keeps for the next one, in files `<name>-<checksum of the file>.npz`."""

import hashlib
import io
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

log = logging.getLogger(__name__)


def store(cache_dir: str | Path, name: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes arrays to the cache, in one atomic step."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getvalue()
    path = Path(cache_dir) / f"{name}-{_checksum(content)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def stored(cache_dir: str | Path | None, name: str) -> dict[str, Shaped[np.ndarray, "..."]] | None:
    """Returns the arrays of a name, or None if there are none; a damaged file is ignored with a warning."""
    for path in sorted(Path(cache_dir).glob(f"{name}-*.npz")) if cache_dir is not None else []:
        content = path.read_bytes()
        if path.stem.endswith(_checksum(content)):
            with np.load(io.BytesIO(content)) as arrays:
                return dict(arrays)
        log.warning("%s is damaged (its checksum is not the one in its name): computing it again.", path)
    return None


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

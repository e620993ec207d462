"""Pickles that hold nothing but tensors, read without running anything of theirs.

A pickle is a program: it may name any function and call it. This one may name what a state dict needs, and gets inert
stand-ins of ours; their arrays are made later, from storages whose bounds are checked. Everything else is refused.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
from jaxtyping import Shaped

_STORAGE_TYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}

# The opcodes of pickles that Python and PyTorch write. INST, OBJ, EXT and text forms such as INT are not among them.
_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET
    ADDITEMS FROZENSET BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD
    BINPERSID
"""

# What pickle raises for damaged bytes, by what they damage.
_DAMAGE = (pickle.UnpicklingError, EOFError, TypeError, AttributeError, IndexError, KeyError, OverflowError)


class Storage(NamedTuple):
    """Elements of one type, kept in the file under a key."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A view of a storage; strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Content(NamedTuple):
    """The content of a pickle.

    Attributes:
      tree: dicts, lists and the like, with a `Tensor` for each tensor.
      storages: those that it refers to, by key.
    """

    tree: Any
    storages: dict[str, Storage]


class _StorageType(NamedTuple):
    """Stands for a class such as torch.FloatStorage. Nothing that a pickle can do changes a tuple, or looks into it."""

    dtype: np.dtype


ReadStorage: TypeAlias = Callable[[Storage], Shaped[np.ndarray, " n"]]


class _Inert:
    """Stands for other content of a checkpoint, such as the command's arguments: accepted, and forgotten."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""


class _Dict(dict):
    """An ordered dict without attributes, which a state dict's `_metadata` would be."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""


class _Call:
    """A function that a pickle may call; unlike a Python function, it has no attributes to overwrite."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle sets attributes of a function")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2`; what follows says whether a gradient was wanted, and lists its hooks."""
    del rest
    axes_fit = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    if not isinstance(storage, Storage) or not axes_fit or not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError(f"a tensor has offset {offset!r}, shape {shape!r} and strides {strides!r}")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_parameter`."""
    del rest
    if not isinstance(data, Tensor):
        raise ValueError("a parameter is no tensor")
    return data


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


_ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _Call(_Dict),
    "torch._utils._rebuild_tensor": _Call(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Call(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Call(_rebuild_parameter),
    **{f"torch.{name}": _StorageType(np.dtype(dtype)) for name, dtype in _STORAGE_TYPES.items()},
    **dict.fromkeys(("torch.Size", "torch.device", "torch.float16", "torch.bfloat16", "torch.float32"), _Inert),
    **dict.fromkeys(("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"), _Inert),
    **dict.fromkeys(("argparse.Namespace", "_codecs.encode"), _Inert),  # the latter within the bytes of a NumPy scalar
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Looks a name up among ours; nothing is imported."""
        if f"{module}.{name}" not in _ALLOWED:
            raise ValueError(
                f"the pickle asks for {module}.{name}, which a state dict does not need: save net.state_dict() alone, "
                "where the file was made"
            )
        return _ALLOWED[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        """Reads a storage's name card: type, key, device, size, and, before PyTorch 1.6, None."""
        match pid:
            case ("storage", _StorageType(dtype), str(key), str(), size, *view) if _is_size(size) and not any(view):
                storage = Storage(key, dtype, size)
                if self.storages.setdefault(key, storage) != storage:
                    raise ValueError(f"the pickle describes its storage {key} in two ways")
                return storage
        raise ValueError(f"the pickle refers to {pid!r}, which is no storage of a known type")


def load(file: io.BufferedIOBase) -> Content:
    """Reads one pickle from a file, and leaves the file at the pickle's end.

    Raises:
      ValueError: if it asks for anything that a state dict does not need, or is damaged.
    """
    start = file.tell()
    end = _check_opcodes(file)
    file.seek(start)
    unpickler = _Unpickler(file.read(end - start))
    try:
        return Content(unpickler.load(), unpickler.storages)
    except _DAMAGE as error:
        raise ValueError(f"the pickle is damaged ({error or type(error).__name__})") from error


def _check_opcodes(file: io.BufferedIOBase) -> int:
    """Refuses opcodes that no state dict has, and numbers that make the unpickler reserve more memory than it needs.

    Returns:
      The position behind the pickle. All lengths in it are known to be true then.
    """
    known = _OPCODES.split()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if opcode.name not in known:
            raise ValueError(f"the pickle uses the opcode {opcode.name}, which a state dict does not need")
        if opcode.name.endswith("BINPUT") and isinstance(argument, int) and argument > count:
            raise ValueError(f"the pickle remembers its object number {argument}, but has only {count}")
    return file.tell()


def to_array(tensor: Tensor, read: ReadStorage) -> Shaped[np.ndarray, "..."]:
    """Returns a read-only view of a tensor's storage.

    Args:
      tensor: what `load` made.
      read: reads a storage: an array [size] of its type.

    Raises:
      ValueError: if the tensor reaches beyond its storage, or is larger than it.
    """
    flat, shape = read(tensor.storage), tensor.shape
    count = math.prod(shape)
    last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, tensor.strides, strict=True))
    if count and (last >= len(flat) or count > len(flat)):
        raise ValueError(
            f"a tensor of shape {shape}, strides {tensor.strides} and offset {tensor.offset} does not lie within its "
            f"storage of {len(flat)} elements"
        )
    if not count:
        return np.zeros(shape, flat.dtype)
    strides = tuple(stride * flat.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, strides, writeable=False)

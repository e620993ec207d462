"""Checks of the library's signatures, cheap enough for every call of the tests.

jaxtyping writes and compiles two functions for each one that it checks, and binds each call's arguments to names; here
beartype checks a function within jaxtyping's context, where axes of one name have one length. A function inside another
one, such as those of a model, is a new one at each call of the outer: its checks are made once. With jaxtyping's own
decorator for all functions, checks took a fifth of the time of the tests.
"""

import functools
import inspect
import types
from collections.abc import Callable

import beartype
import jaxtyping

_jaxtyped = jaxtyping.jaxtyped
_of_inner: dict[tuple, Callable] = {}  # by code and types


def install() -> None:
    """Checks every signature of `jaxgen` that has a type; before `jaxgen` is imported."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(_checked, typechecker)
    jaxtyping.install_import_hook("jaxgen", "beartype.beartype")


def _checked(typechecker, function):
    """The decorator that jaxtyping writes above each function and class of what is imported."""
    if not inspect.isfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    names = [str(annotation) for annotation in function.__annotations__.values()]
    if not names:
        return function
    named = any("{" in name for name in names)  # a length that is an argument's: jaxtyping needs their names
    if named or inspect.isgeneratorfunction(function):  # which beartype checks when the context is another
        return _jaxtyped(function, typechecker=typechecker)
    if "<locals>" not in function.__qualname__:
        return _in_context(function, beartype.beartype(function))
    key = (function.__code__, *names)  # a type of jaxtyping is another object at each mention
    if key not in _of_inner:
        _of_inner[key] = beartype.beartype(_without_values(function))
    return _in_context(function, _checks_of(_of_inner[key], function))


def _in_context(function, checked):
    @functools.wraps(function)
    def in_context(*args, **kwargs):
        __tracebackhide__ = True
        with _jaxtyped("context"):
            return checked(*args, **kwargs)

    return in_context


def _without_values(function):
    """A function inside another as its source has it: what it was made with would live as long as its checks."""
    cells = tuple(types.CellType() for _ in function.__code__.co_freevars)
    empty = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    for name in ("__module__", "__qualname__", "__annotations__"):
        setattr(empty, name, getattr(function, name))
    return empty


def _checks_of(checked, function):
    """Checks that beartype wrote for one function, around another one of the same code."""
    if checked.__kwdefaults__ is None or "__beartype_func" not in checked.__kwdefaults__:
        return function  # no type of it can be wrong
    other = types.FunctionType(checked.__code__, checked.__globals__, checked.__name__, checked.__defaults__)
    other.__kwdefaults__ = {**checked.__kwdefaults__, "__beartype_func": function}
    return other

"""Faulty examples: the run stops at the first one, or others take their place, as the config says.

What takes the place of an example is a function of its index and of the data, so that a run that skips follows the same
trajectory on any number of processes and after a resume.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from jaxgen.core.conditioning import Condition
from jaxgen.core.config import Need
from jaxgen.data.dataset import Dataset, Example, FaultyExampleError

_ATTEMPTS = 100


class FaultSettings(NamedTuple):
    """The settings of the config's section `data` for faulty examples.

    Attributes:
      on_fault: `stop` at a faulty example, or `skip` it: another one takes its place.
      max_faults: a run that skips stops all the same when it has found more faulty examples than this.
    """

    on_fault: Literal["stop", "skip"] = "stop"
    max_faults: int = 100


NEEDS = {"max_faults": Need("data.on_fault=skip", lambda data: data.on_fault == "skip")}
"""Settings that have an effect only beside others, with the condition of each."""


class DataFaultError(ValueError):
    """Data is faulty, and the settings say that this is the end; the sentence says which, and what to do."""


class Faults:
    """The faulty examples of a split that were found, each said and written down once."""

    def __init__(
        self, settings: FaultSettings, *, split: str, file: Path | None = None, say: Callable[[str], None] = print
    ) -> None:
        """Reads those that were found before from the file, so that a resumed run does not name them again.

        Args:
          settings: what to do about them.
          split: which they are of.
          file: where each becomes a line: an object of `split`, `index`, `example` (its name), and `problem`.
          say: prints a line, from any thread; may be replaced later.

        Raises:
          ValueError: if `max_faults` is not positive.
        """
        if settings.max_faults < 1:
            raise ValueError(f"data.max_faults is {settings.max_faults}, but must be at least 1.")
        self.say = say
        self._settings, self._split, self._file = settings, split, file
        text = file.read_text() if file is not None and file.exists() else ""
        self._found = _indices(text, split)
        self._newline = "\n" if text and not text.endswith("\n") else ""
        self._lock = threading.Lock()

    @property
    def stops(self) -> bool:
        """True if the first faulty example stops the run."""
        return self._settings.on_fault == "stop"

    @property
    def count(self) -> int:
        """The number of faulty examples."""
        return len(self._found)

    def add(self, index: int, fault: FaultyExampleError) -> None:
        """Counts a faulty example, if it is a new one.

        Raises:
          DataFaultError: if it is one too many.
        """
        if self.stops:
            raise DataFaultError(f"{fault} Repair it, or set data.on_fault=skip to do without it.") from fault
        with self._lock:
            limit = self._settings.max_faults
            if index not in self._found and self.count <= limit:  # beyond it, threads that still read add no more
                self._found.add(index)
                self._write(index, fault)
                self.say(f"Skipped: {fault}")
            if self.count > limit:
                raise DataFaultError(
                    f"More than data.max_faults={limit} examples of the {self._split} split are faulty, one of them "
                    f"this: {fault} Repair the data, or raise data.max_faults."
                ) from fault

    def say_count(self) -> None:
        """Prints how many there are, if there are any."""
        if self.count:
            where = "" if self._file is None else f" (named in {self._file})"
            self.say(f"Faulty examples of the {self._split} split, skipped: {self.count:,}{where}.")

    def _write(self, index: int, fault: FaultyExampleError) -> None:
        if self._file is not None:
            line = {"split": self._split, "index": index, "example": fault.name, "problem": fault.problem}
            with self._file.open("a") as file:
                file.write(self._newline + json.dumps(line) + "\n")
            self._newline = ""


def tolerant(dataset: Dataset, faults: Faults) -> Dataset:
    """A dataset whose faulty examples end the run, or are replaced by others.

    An example is faulty if it cannot be read (`FaultyExampleError`), or if a value of its conditions is none that they
    can have: no class, no word, or not finite. All conditions of the dataset count, whichever a batch carries, so that
    the choice of examples is the same for all models. The first example is read at once if faults are the end, so that
    data which is not there is not found out later.

    Raises:
      DataFaultError: from here or when reading, as the settings of `faults` say.
    """
    examples = TolerantExamples(dataset, faults)
    if faults.stops:
        examples[0]
    return dataset._replace(examples=examples)


class TolerantExamples:
    """The examples of a dataset, others in the place of the faulty ones."""

    def __init__(self, dataset: Dataset, faults: Faults) -> None:
        self._dataset, self._faults = dataset, faults
        self._stand_ins: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._dataset.examples)

    def __getitem__(self, index: int) -> Example:
        for candidate in self._candidates(index):
            try:
                example = self._read([candidate])[0]
            except FaultyExampleError as fault:
                self._faults.add(candidate, fault)
            else:
                self._stand_ins[index] = candidate
                return example
        raise DataFaultError(f"{_ATTEMPTS} examples in a row cannot be read: repair the data.")

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        try:
            return self._read([self._stand_ins.get(index, index) for index in indices])
        except FaultyExampleError:  # seldom: one by one, to find which
            return [self[index] for index in indices]

    def _candidates(self, index: int) -> Iterator[int]:
        """The example itself, then others from all over the dataset, so that no one takes the place of very many."""
        yield index
        for bits in np.random.Philox(key=[index, 0]).random_raw(_ATTEMPTS - 1):
            yield int(bits) % len(self)

    def _read(self, indices: Sequence[int]) -> Sequence[Example]:
        examples = self._dataset.examples.__getitems__(indices)
        for name, condition in self._dataset.conditioning.items():
            values = np.array([example[name] for example in examples]).reshape(len(examples), -1)
            wrong = _wrong(condition, values)
            for at in np.flatnonzero(wrong.any(axis=1))[:1]:
                problem = _problem(name, condition, values[at][wrong[at]][0])
                raise FaultyExampleError(self._dataset.describe(indices[at]), problem)
        return examples


def _wrong(condition: Condition, values: Shaped[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
    """Returns whether each number is invalid for a condition."""
    return (values < 0) | (values >= condition.size) if condition.size else ~np.isfinite(values)


def _problem(name: str, condition: Condition, number: np.generic) -> str:
    if condition.kind == "classes":
        return f"has the {name} {number}, but its classes are 0 to {condition.size - 1}"
    if condition.kind == "tokens":
        return f"has the token {number} in {name}, but its tokens are 0 to {condition.size - 1}"
    return f"has the value {number} in {name}, which is not finite"


def _indices(text: str, split: str) -> set[int]:
    """The examples that the lines name; half of a line that was being written at a crash counts for nothing."""
    found = set()
    for line in text.splitlines():
        try:
            known = json.loads(line)
        except json.JSONDecodeError:
            continue
        if known["split"] == split:
            found.add(known["index"])
    return found

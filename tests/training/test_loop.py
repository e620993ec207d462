"""The loop over programs that write down what they are asked to do."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from jaxgen.parallel.runner import Compiled
from jaxgen.training import loop
from jaxgen.training.durability import health
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.profiling import Profiler
from jaxgen.training.programs import Programs
from jaxgen.training.waiting import DataWait


def cuts(start, num_steps, size, phase=lambda step: None):
    return [tuple(dispatch) for dispatch in loop.dispatches(start, num_steps, size, phase)]


def test_dispatches_cover_the_steps_and_end_at_multiples():
    assert cuts(0, 10, 4) == [(0, 4, None), (4, 8, None), (8, 10, None)]
    assert cuts(3, 10, 4) == [(3, 4, None), (4, 8, None), (8, 10, None)]
    assert cuts(10, 10, 4) == []


def phase(step):
    return ("small", "large")[step >= 6]


def test_a_change_of_phase_is_a_cut_too():
    assert cuts(0, 12, 4, phase) == [(0, 4, "small"), (4, 6, "small"), (6, 8, "large"), (8, 12, "large")]


@pytest.mark.parametrize("start", range(13))
def test_the_cuts_do_not_depend_on_the_start(start):
    """A run resumed at a cut goes on with the dispatches of an undisturbed one; elsewhere, from the next cut."""
    undisturbed = cuts(0, 12, 4, phase)
    resumed = cuts(start, 12, 4, phase)
    assert [d for d in resumed if d[0] != start] == [d for d in undisturbed if d[0] > start]


def fit(
    num_steps,
    size,
    *,
    hooks=(),
    interrupted=lambda: False,
    losses=None,
    start=0,
    phase=lambda step: None,
    programs=None,
    watched=False,
    events=None,
    waiting=None,
):
    """Runs the loop on a state that counts steps; returns its result and the events in their order.

    A caller who expects an error gives the list of `events`, so as to see what happened before it.
    """
    events = [] if events is None else events
    losses = np.arange(1.0, num_steps + 1) if losses is None else losses
    watchdog, profiler = Watchdog(None, on_hang=print), Profiler(Path("none"), num_steps=1, at_step=None, say=print)
    if watched:
        watchdog, profiler = RecordingWatchdog(events), RecordingProfiler(events)
    programs = make_programs(events, losses, watchdog, profiler) if programs is None else programs

    def on_metrics(step, metrics):
        health.check_finite(step, metrics)
        events.append(("metrics", step, metrics["loss"].tolist()))

    result = loop.fit(
        start,
        ({"n": np.array(n)} for n in itertools.count(start)),
        loop.dispatches(start, num_steps, size, phase),
        put=lambda batches: {**batches, "on_device": True},
        update=programs.update,
        on_metrics=on_metrics,
        hooks=[
            loop.Hook(every, lambda step, state, name=name: events.append((name, step, state))) for name, every in hooks
        ],
        interrupted=interrupted,
        watchdog=watchdog,
        waiting=DataWait() if waiting is None else waiting,
    )
    return result, events


def make_programs(events, losses, watchdog, profiler):
    def run(state, batch):
        assert batch["on_device"]
        np.testing.assert_array_equal(batch["n"], np.arange(state, state + len(batch["n"])))
        events.append(("run", state))
        last = state + len(batch["n"])
        return last, {"loss": losses[state:last]}

    def compile(state, batch, phase):
        events.append(("compile", len(batch["n"]), phase))
        return Compiled(run, None, None)

    return Programs(
        compile,
        on_compiled=lambda dispatch, compiled, seconds: events.append(("compiled", dispatch.first)),
        watchdog=watchdog,
        profiler=profiler,
    )


def of(events, *kinds):
    return [event for event in events if event[0] in kinds]


def test_metrics_are_read_one_dispatch_late_and_none_is_lost():
    result, events = fit(5, 2)
    assert result == (5, None)
    expected = [("run", 0), ("run", 2), ("metrics", 2, [1, 2]), ("run", 4), ("metrics", 4, [3, 4]), ("metrics", 5, [5])]
    assert of(events, "run", "metrics") == expected


def test_a_program_is_compiled_once_for_each_length_and_phase():
    _, events = fit(13, 4, phase=phase)
    assert of(events, "compile") == [
        ("compile", 4, "small"),
        ("compile", 2, "small"),
        ("compile", 2, "large"),
        ("compile", 4, "large"),
        ("compile", 1, "large"),
    ]
    assert len(of(events, "compiled")) == 5


def test_programs_that_were_compiled_before_are_taken():
    events = []
    watchdog, profiler = RecordingWatchdog([]), RecordingProfiler([])
    programs = make_programs(events, np.ones(8), watchdog, profiler)
    assert len(programs) == 0
    fit(8, 4, programs=programs)
    assert of(events, "compile", "compiled") == [("compile", 4, None), ("compiled", 0)]
    fit(8, 4, programs=programs)
    assert len(of(events, "compile", "compiled")) == 2
    assert len(of(events, "run")) == 4
    assert len(programs) == 1


class RecordingWatchdog(Watchdog):
    """Records the calls."""

    def __init__(self, events):
        self.events = events

    def watch(self, what):
        self.events.append(("watch", what))

    @contextlib.contextmanager
    def paused(self):
        self.events.append(("pause",))
        yield
        self.events.append(("go on",))


class RecordingProfiler(Profiler):
    """Records the calls."""

    def __init__(self, events):
        self.events = events

    def before(self, first, last):
        self.events.append(("before", first, last))

    def after(self, last, state):
        self.events.append(("after", last, state))


def test_the_watchdog_knows_what_may_hang_and_pauses_while_anything_may_take_long():
    _, events = fit(4, 2, hooks=[("save", 4)], watched=True)
    assert [event for event in events if event[0] not in ("metrics", "before", "after", "compiled")] == [
        ("watch", "reading the batches of steps 1 to 2"),
        ("pause",),
        ("compile", 2, None),
        ("run", 0),
        ("go on",),
        ("watch", "reading the batches of steps 3 to 4"),
        ("run", 2),
        ("watch", "the device's work up to step 2"),
        ("watch", "the device's work up to step 4"),
        ("pause",),
        ("save", 4, 4),
        ("go on",),
    ]


class RecordingWait(DataWait):
    """Records the calls."""

    def __init__(self, events):
        super().__init__()
        self.events = events

    def read(self, batches, count):
        self.events.append(("read", count))
        return super().read(batches, count)

    def dispatched(self, metrics):
        self.events.append(("dispatched", metrics["loss"].tolist()))

    def restart_clock(self):
        self.events.append(("restart",))


def test_the_time_from_each_dispatch_to_the_next_batch_is_measured_but_not_that_of_hooks():
    events = []
    fit(5, 2, hooks=[("save", 4)], waiting=RecordingWait(events), events=events)
    assert of(events, "read", "run", "dispatched", "restart", "save") == [
        *(("restart",), ("read", 2), ("run", 0), ("dispatched", [1, 2])),
        *(("read", 2), ("run", 2), ("dispatched", [3, 4]), ("save", 4, 4), ("restart",)),
        *(("read", 1), ("run", 4), ("dispatched", [5])),
    ]


def test_the_profiler_sees_each_dispatch_but_not_its_compilation():
    _, events = fit(4, 2, watched=True)
    around = [event for event in events if event[0] in ("compile", "before", "run", "after")]
    dispatches = [("before", 0, 2), ("run", 0), ("after", 2, 2), ("before", 2, 4), ("run", 2), ("after", 4, 4)]
    assert around == [("compile", 2, None), *dispatches]


def test_hooks_fire_when_a_multiple_is_reached_or_passed_with_the_metrics_up_to_there():
    _, events = fit(8, 2, hooks=[("sample", 3), ("save", 4)])
    assert of(events, "sample", "save") == [("sample", 4, 4), ("save", 4, 4), ("sample", 6, 6), ("save", 8, 8)]
    before = events[: events.index(("save", 4, 4))]
    assert ("metrics", 4, [3, 4]) in before
    assert ("run", 4) not in before


def test_hooks_fire_at_the_same_steps_after_a_resume():
    _, whole = fit(12, 2, hooks=[("save", 4)])
    _, resumed = fit(12, 2, hooks=[("save", 4)], start=4)
    assert of(resumed, "save") == of(whole, "save")[1:]


def test_an_interruption_ends_the_run_after_the_present_dispatch_with_its_metrics_read():
    result, events = fit(8, 2, interrupted=lambda: True, hooks=[("save", 2)])
    assert result == (2, 2)
    assert of(events, "run", "metrics", "save") == [("run", 0), ("metrics", 2, [1, 2]), ("save", 2, 2)]


@pytest.mark.parametrize("looks", range(6))
def test_no_metrics_are_lost_whenever_the_signal_comes(looks):
    """A signal may come between any two looks at the flag."""
    seen = itertools.count()
    result, events = fit(8, 2, interrupted=lambda: next(seen) >= looks, hooks=[("save", 4)])
    last = min(2 * (looks + 1), 8)  # it is looked for once after each dispatch, and there are four
    assert result == (last, last if looks < 4 else None)
    assert next(seen) == min(looks + 1, 4)
    assert of(events, "run") == [("run", step) for step in range(0, last, 2)]
    assert of(events, "metrics") == [("metrics", step, [step - 1, step]) for step in range(2, last + 1, 2)]
    assert of(events, "save") == [("save", step, step) for step in range(4, last + 1, 4)]
    for save in of(events, "save"):
        assert events.index(("metrics", save[1], [save[1] - 1, save[1]])) < events.index(save)


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize(
    ("bad", "runs", "metrics", "saves"),
    [
        (2, [0], [], []),  # of the dispatch that has just run, after which it is saved
        (3, [0, 2], [2], [2]),
        (4, [0, 2], [2], [2]),
        (5, [0, 2, 4], [2, 4], [2, 4]),
    ],
)
def test_nothing_is_saved_of_a_state_whose_metrics_are_not_finite(bad, runs, metrics, saves, interrupted):
    losses, events = np.ones(6), []
    losses[bad - 1] = np.inf
    last = -(-bad // 2) * 2  # of the dispatch with the bad step, at whose end a signal may come
    with pytest.raises(health.NonFiniteError, match=f"at step {bad}"):
        fit(
            6,
            2,
            losses=losses,
            hooks=[("save", 2)],
            events=events,
            interrupted=lambda: interrupted and events[-1] == ("run", last - 2),
        )
    assert of(events, "run") == [("run", step) for step in runs]
    assert of(events, "metrics") == [("metrics", step, [1.0, 1.0]) for step in metrics]
    assert of(events, "save") == [("save", step, step) for step in saves]


def test_bad_metrics_of_the_last_dispatch_and_of_one_without_a_save_are_seen_too():
    for bad, runs in ((5, [0, 2, 4]), (1, [0, 2])):
        losses, events = np.ones(6), []
        losses[bad - 1] = np.nan
        with pytest.raises(health.NonFiniteError, match=f"at step {bad}"):
            fit(6, 2, losses=losses, hooks=[("save", 4)], events=events)
        assert of(events, "run") == [("run", step) for step in runs]  # one dispatch late
        assert of(events, "save") == ([("save", 4, 4)] if bad == 5 else [])
    finite, events = fit(6, 2, losses=np.ones(6), hooks=[("save", 4)])
    assert (finite, of(events, "save")) == ((6, None), [("save", 4, 4)])

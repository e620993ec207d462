"""Whatever a command is asked for that cannot be had: one sentence, exit code 2, and nothing is written."""

import errno
import re

import pytest
from launching import TINY, contents, launch

from jaxgen.cli import main

pytestmark = pytest.mark.xdist_group("cli")


def assert_refused(outcome, sentence):
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert re.fullmatch(r"error: [^\n]*[.?]\n", outcome.err), outcome.err
    assert re.search(sentence, outcome.err), outcome.err


TRAIN = {
    "command": (["trian"], "There is no command 'trian'; there are train, sample, evaluate.* Did you mean train"),
    "word": (["train", "again"], "'again' is one word too many"),
    "flag": (["train", "--wrokdir=x"], "wrokdir"),
    "flag type": (["plan", "--devices=x"], "--devices is 'x', but must be a whole number"),
    "flag of another command": (
        ["train", "--num_samples=3"],
        "train does not take --num_samples, .* sample and .* encode",
    ),
    "config": (["--config=configs/vea.py"], r"no config 'configs/vea\.py'; there are .*configs/vae\.py"),
    "config directory": (["--config=nowhere/vae.py"], r"no config 'nowhere/vae\.py'"),
    "variant": (["--config=configs/vae.py:tinny"], "no variant 'tinny'; this config has digits, tiny"),
    "key": ([TINY, "--config.train.num_step=3"], r"train\.num_step is not a setting.* Did you mean num_steps"),
    "section": ([TINY, "--config.trian.num_steps=3"], r"trian is not a setting.* Did you mean train"),
    "key below no section": ([TINY, "--config.seed.a=3"], r"seed\.a is not a setting"),
    "type": ([TINY, "--config.train.num_steps=ten"], r"train\.num_steps is 'ten', but must be of type int"),
    "float for int": ([TINY, "--config.train.num_steps=2.5"], r"train\.num_steps is '2\.5', but must be of type int"),
    "no value": ([TINY, "--config.train.num_steps"], r"has no value: give it as --config\.train\.num_steps=VALUE"),
    "nothing for int": ([TINY, "--config.train.num_steps=None"], r"train\.num_steps is '?None'?, but must be"),
    "no seed": ([TINY, "--config.seed=None"], r"seed is None, but must be of type int"),
    "no batch": ([TINY, "--config.data.batch_size=None"], r"data\.batch_size is None, but must be of type int"),
    "no coin": ([TINY, "--config.data.flip=None"], r"data\.flip is None, but must be of type bool"),
    "value for section": ([TINY, "--config.train=3"], r"train is '3', but must be"),
    "choice": ([TINY, "--config.train.nonfinite=explode"], r"train\.nonfinite is 'explode', but must be .*'skip'"),
    "health": (
        [TINY, "--config.health.hang_seconds=0"],
        r"health\.hang_seconds is 0\.0, but must be positive, or None",
    ),
    "norms": ([TINY, "--config.log.norms_depth=-1"], r"log\.norms_depth is -1, but must be 0, for no norms, or more"),
    "range": ([TINY, "--config.data.batch_size=0"], r"data\.batch_size is 0"),
    "method": ([TINY, "--config.method=vae.vea"], r"method is 'vae\.vea', .* Did you mean vae\.vae"),
    "dataset": ([TINY, "--config.data.name=digit"], "digit.* Did you mean digits"),
    "devices": ([TINY, "--config.parallel.num_devices=99"], r"parallel\.num_devices is 99, but must be from 1 to 8"),
    "undivided batch": ([TINY, "--config.data.batch_size=12"], "12 examples does not divide over 8 devices"),
    "average": ([TINY, "--config.ema.decay=1.5"], r"ema\.decay is 1\.5"),
    "average of nothing": ([TINY, "--config.ema.include=nothing"], "'nothing' matches no parameter"),
    "warm-up": ([TINY, "--config.optimizer.warmup_steps=-1"], r"optimizer\.warmup_steps is -1, but must be at least 0"),
    "optimizer": ([TINY, "--config.optimizer.name=adm"], r"optimizer\.name is 'adm', .* Did you mean adam"),
    "evaluation": ([TINY, "--config.evaluate.num_samples=-1"], r"evaluate\.num_samples is -1"),
}


@pytest.mark.parametrize("what", TRAIN)
def test_train_refuses(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, sentence = TRAIN[what]
    assert_refused(launch(*arguments, f"--workdir={tmp_path / 'run'}"), sentence)
    assert contents(tmp_path) == {}


SAMPLE = {
    "no number": ([], "sample needs --num_samples=N"),
    "zero": (["--num_samples=0"], "--num_samples is 0, but must be at least 1"),
    "labels": (
        ["--num_samples=4", "--labels=a,b"],
        "There is no class 'a'; the classes are 0, 1, 2, 3, 4,",
    ),
    "class": (["--num_samples=4", "--labels=3,10"], "There is no class '10'; the classes are 0, 1,"),
    "name": (["--num_samples=4", "--output=new/x.png"], r"--output is new/x\.png, but .* a file that ends in \.npz"),
    "step": (["--num_samples=4", "--step=3"], "no checkpoint of step 3; it has 4, 2"),
    "step elsewhere": (["--num_samples=4", "--step=3", "--output=new/x.npz"], "no checkpoint of step 3"),
    "config": (["--num_samples=4", TINY], "takes its config from the run in --workdir"),
    "key": (["--num_samples=4", "--config.sample.size=3"], r"sample\.size is not a setting"),
    "batch": (["--num_samples=4", "--config.sample.batch_size=0"], r"sample\.batch_size is 0, but must be at least 1"),
    "model": (["--num_samples=4", "--config.model.width=8"], "."),
    "output in a file": (["--num_samples=4", "--output=file/x.npz"], "file cannot be written .*: choose another"),
}


@pytest.mark.parametrize("what", SAMPLE)
def test_sample_refuses(what, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    before = contents(trained.workdir)
    arguments, sentence = SAMPLE[what]
    assert_refused(launch("sample", f"--workdir={trained.workdir}", *arguments), sentence)
    assert contents(trained.workdir) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


ON_A_RUN = {"sample": ["--num_samples=4"], "evaluate": []}


@pytest.mark.parametrize("command", ON_A_RUN)
def test_commands_on_a_run_refuse_where_there_is_none(command, tmp_path):
    assert_refused(launch(command, *ON_A_RUN[command]), f"{command} needs --workdir=DIR")
    outcome = launch(command, *ON_A_RUN[command], f"--workdir={tmp_path}")
    assert_refused(outcome, r"holds no run \(no config\.json\)")


@pytest.mark.parametrize("command", ON_A_RUN)
def test_commands_on_a_run_refuse_what_was_not_trained_yet(command, trained, tmp_path):
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((trained.workdir / name).read_bytes())
    outcome = launch(command, *ON_A_RUN[command], f"--workdir={tmp_path}")
    assert_refused(outcome, "no whole checkpoint: train first")
    assert set(contents(tmp_path)) == {"config.json", "data.json"}


@pytest.mark.parametrize("setting", ["num_samples=0", "k=0"])
def test_evaluate_refuses_what_cannot_be_judged(setting, trained):
    outcome = launch("evaluate", f"--workdir={trained.workdir}", f"--config.evaluate.{setting}")
    assert_refused(outcome, rf"evaluate\.{setting.split('=')[0]} is 0")


def test_evaluate_refuses_an_empty_sampling_batch(trained):
    outcome = launch("evaluate", f"--workdir={trained.workdir}", "--config.sample.batch_size=0")
    assert_refused(outcome, r"sample\.batch_size is 0")


def test_paths_without_permission_are_refused_and_other_errors_are_none_of_the_users(monkeypatch):
    def failing(*error):
        def fail(line):
            raise OSError(*error)

        monkeypatch.setattr(main, "_config", fail)

    failing(errno.EACCES, "Permission denied", "/secret/run")
    assert_refused(launch(TINY), r"^error: /secret/run cannot be used \(Permission denied\)\.$")
    for error in ((errno.EACCES, "Permission denied"), (errno.EIO, "Input/output error", "/secret/run")):
        failing(*error)
        with pytest.raises(OSError, match=error[1]):
            launch(TINY)


def test_train_refuses_the_directory_of_another_run(trained, tmp_path):
    before = contents(trained.workdir)
    outcome = launch(*trained.arguments, "--config.optimizer.learning_rate=0.5")
    assert_refused(outcome, r"holds a run with another config.*optimizer\.learning_rate: 0\.5 now, 0\.001 there")
    assert contents(trained.workdir) == before


def test_train_refuses_a_directory_that_is_no_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert_refused(launch(TINY, f"--workdir={tmp_path}"), "is not empty and holds no run")
    assert_refused(launch(TINY, f"--workdir={tmp_path / 'thesis.tex'}"), "is a file: choose another --workdir")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_train_refuses_a_writer_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    outcome = launch(TINY, f"--workdir={tmp_path}", "--config.log.wandb=True")
    assert_refused(outcome, r"log\.wandb needs Weights & Biases: pip install")

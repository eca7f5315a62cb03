"""What a resumed training may change, and then does, and what it refuses: the table of docs/resume.md, row by row."""

import functools
import math
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from helpers import write_trajectories
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import SGD, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from tabom.backbones import PretrainedBackbone
from tabom.callbacks import LastCheckpoint
from tabom.cli.lightning_cli import _silence_upstream
from tabom.data import TrajectoryDataModule, ValidationSizes
from tabom.errors import TabomError
from tabom.modules import CosineWithWarmup, TrainingModule
from tabom.objectives import NelboObjective, T3DObjective, TabomObjective
from tabom.samplers import Sampler
from tabom.tasks import PythonSource, Sudoku4x4
from tabom.validation import Validation

NUM_ROWS, NUM_STEPS = 40, 4
COSINE = functools.partial(CosineWithWarmup, num_warmup_steps=2, num_training_steps=12)
SIZES = ValidationSizes(num_validation_prompts=0, num_base_examples=4)


class Spy(Callback):
    """Keeps rows, settings and schedule of every optimizer step."""

    def __init__(self):
        self.rows, self.groups, self.rates, self.numbers = {}, {}, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows.setdefault((trainer.current_epoch, trainer.global_step), []).extend(batch.row_numbers.tolist())
        self.numbers.append(batch_idx)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (group,) = optimizer.param_groups
        self.groups[trainer.global_step] = {name: value for name, value in group.items() if name != "params"}
        self.rates.append(group["lr"])


@dataclass
class Settings:
    """Of a training; what a test does not change stays."""

    optimizer: object = field(default_factory=lambda: functools.partial(AdamW, lr=1e-3, weight_decay=0.1))
    lr_scheduler: object = COSINE
    objective: object = field(default_factory=lambda: TabomObjective(window=8))
    batch_size: int = 4
    max_steps: int = NUM_STEPS
    seed: int = 1
    data: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    validation: object = None


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoint, tokenizer):
    directory = tmp_path_factory.mktemp("resuming")
    write_trajectories(directory / "trajectories", tokenizer, num_rows=NUM_ROWS)
    write_trajectories(directory / "others", tokenizer, num_rows=NUM_ROWS - 3)
    return directory, checkpoint


@pytest.fixture
def train(place, tmp_path):
    """Run a training; returns its trainer, with what was seen."""
    directory, checkpoint = place

    def call(name, ckpt_path=None, **changes):
        settings = Settings(**changes)
        seed_everything(settings.seed, verbose=False)
        path = settings.data.pop("path", "trajectories")
        defaults = {"only_verified": False, "held_out": 0.0, "base_domains": {"python": PythonSource()}}
        data = TrajectoryDataModule(
            path=str(directory / path),
            task=Sudoku4x4(),
            response_length=19,
            tokenizer="characters",
            batch_size=settings.batch_size,
            validation=SIZES,
            **{**defaults, **settings.data},
        )
        module = TrainingModule(
            PretrainedBackbone(str(checkpoint)),
            settings.objective,
            settings.optimizer,
            settings.lr_scheduler,
            settings.validation,
        )
        defaults = {"limit_val_batches": 0, "max_epochs": -1, "check_val_every_n_epoch": None}
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Spy(), LastCheckpoint()],
            default_root_dir=tmp_path / name,
            **{**defaults, "max_steps": settings.max_steps, **settings.trainer},
        )
        with warnings.catch_warnings():
            _silence_upstream()
            trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        trainer.seen = next(callback for callback in trainer.callbacks if isinstance(callback, Spy))
        return trainer

    return call


_STOPPED = []


@pytest.fixture
def stopped(train, tmp_path_factory):
    """Checkpoint after four steps of ten in an epoch, and the rows of those; made once."""
    if not _STOPPED:
        trainer = train("stopped")
        path = tmp_path_factory.mktemp("stopped") / "last.ckpt"
        shutil.copy(Path(trainer.default_root_dir) / "checkpoints/last.ckpt", path)
        _STOPPED.extend([path, [row for rows in trainer.seen.rows.values() for row in rows]])
    return _STOPPED


def rates_of(schedule, num_steps, lr=1e-3):
    """Rates of a training that had the schedule from its beginning."""
    optimizer = AdamW([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule = schedule and schedule(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule:
            schedule.step()
    return rates


def sequential(optimizer):
    parts = [LinearLR(optimizer, 0.1, total_iters=3), CosineAnnealingLR(optimizer, 9, eta_min=1e-5)]
    return SequentialLR(optimizer, parts, milestones=[3])


SCHEDULES = {
    "the same": COSINE,
    "another length": functools.partial(COSINE.func, num_warmup_steps=5, num_training_steps=30),
    "none": None,
    "StepLR": functools.partial(StepLR, step_size=2, gamma=0.5),
    "CosineAnnealingLR": functools.partial(CosineAnnealingLR, T_max=7, eta_min=1e-4),
    "OneCycleLR": functools.partial(OneCycleLR, max_lr=2e-3, total_steps=20),
    "SequentialLR": sequential,
}


@pytest.mark.parametrize("lr", [1e-3, 1e-5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rate_and_schedule(train, stopped, name, lr):
    """The rate is that of a training which had rate and schedule from its beginning."""
    path, _ = stopped
    optimizer = functools.partial(AdamW, lr=lr, weight_decay=0.1)
    trainer = train("again", path, optimizer=optimizer, lr_scheduler=SCHEDULES[name], max_steps=7)
    assert trainer.seen.rates == rates_of(SCHEDULES[name], 7, lr)[NUM_STEPS:]


@pytest.mark.parametrize("before", [functools.partial(StepLR, step_size=3), None])
def test_a_schedule_of_torch_may_change(train, before):
    """Their states hold settings, which must not win."""
    path = Path(train("first", lr_scheduler=before).default_root_dir) / "checkpoints/last.ckpt"
    after = functools.partial(StepLR, step_size=5, gamma=0.9)
    trainer = train("again", path, lr_scheduler=after, max_steps=6)
    assert trainer.seen.rates == rates_of(after, 6)[NUM_STEPS:]


@pytest.mark.parametrize(
    "changed",
    [
        {"weight_decay": 0.3},
        {"betas": (0.8, 0.9), "eps": 1e-6},
        {"foreach": True},
        {"fused": True},
        {"maximize": True},
    ],
    ids=str,
)
def test_settings_of_the_optimizer(train, stopped, changed):
    path, _ = stopped
    optimizer = functools.partial(AdamW, **{"lr": 1e-3, "weight_decay": 0.1, **changed})
    group = train("again", path, optimizer=optimizer, max_steps=5).seen.groups[NUM_STEPS]
    assert {name: group[name] for name in changed} == changed


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            functools.partial(SGD, lr=1e-3),
            r"^model.optimizer: expected AdamW, whose state the checkpoint holds, got SGD;",
        ),
        (RMSprop, r"^model.optimizer: expected AdamW, .* got RMSprop;"),
        (
            functools.partial(AdamW, amsgrad=True),
            r"^model.optimizer.amsgrad: expected False, as in the checkpoint, which holds no state for it, got True$",
        ),
    ],
)
def test_optimizers_that_need_another_state_are_refused(train, stopped, optimizer, message):
    with pytest.raises(TabomError, match=message):
        train("again", stopped[0], optimizer=optimizer, max_steps=5)


@pytest.mark.parametrize(
    ("batch_size", "accumulation"), [(4, 1), (2, 2), (1, 4), (8, 1), (3, 1), (5, 2), (4, 3), (12, 2)]
)
def test_rows_are_counted(train, stopped, batch_size, accumulation):
    """The epoch's other rows follow, each once, whatever the size of a step is; then a whole epoch."""
    path, first = stopped
    options = {"accumulate_grad_batches": accumulation, "max_epochs": 2, "max_steps": -1}
    trainer = train("again", path, batch_size=batch_size, trainer=options)
    rows = [[row for (e, _), rows in trainer.seen.rows.items() if e == epoch for row in rows] for epoch in range(2)]
    step = batch_size * accumulation
    assert len(rows[0]) == (NUM_ROWS - len(first)) // step * step
    assert not set(rows[0]) & set(first)
    assert len(rows[1]) == NUM_ROWS // step * step
    assert all(len(of_epoch) == len(set(of_epoch)) for of_epoch in rows)
    assert {len(rows) for rows in trainer.seen.rows.values()} <= {step}
    num_batches = NUM_ROWS // step * accumulation
    assert trainer.seen.numbers[-num_batches:] == list(range(num_batches))
    assert trainer.seen.numbers[:-num_batches] == list(range(num_batches - len(rows[0]) // batch_size, num_batches))
    assert trainer.global_step == NUM_STEPS + (len(rows[0]) + len(rows[1])) // step


def test_rows_are_counted_where_the_schedule_asks_for_the_length_of_the_data(train, stopped):
    """Then Lightning has the loader before it has its state."""
    path, first = stopped
    schedule = functools.partial(CosineWithWarmup, num_warmup_steps=2)
    options = {"max_epochs": 1, "max_steps": -1}
    trainer = train("again", path, lr_scheduler=schedule, trainer=options)
    rows = [row for rows in trainer.seen.rows.values() for row in rows]
    assert sorted(rows + first) == list(range(NUM_ROWS))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("seed_everything", {"seed": 2}),
        ("training data", {"data": {"only_verified": True}}),
        ("training data", {"data": {"held_out": 0.2}}),
        ("training data", {"data": {"path": "others"}}),
        ("data.group_by_length", {"data": {"group_by_length": True}}),
    ],
)
def test_other_rows_are_refused(train, stopped, name, changes):
    message = rf"^{name}: expected .*, as in the checkpoint, whose epoch is not over, got .*\(tabom export\)$"
    with pytest.raises(TabomError, match=message):
        train("again", stopped[0], **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"answers": "ground_truth"}, "objective": NelboObjective()},
        {"data": {"num_workers": 1}},
        {"objective": TabomObjective(window=4, margin=0.3)},
        {"objective": T3DObjective(reference_interval=2)},
        {"trainer": {"gradient_clip_val": 0.5, "max_epochs": 5, "precision": "bf16-mixed"}},
    ],
    ids=["answers", "num_workers", "objective", "reference", "trainer"],
)
def test_what_may_change(train, stopped, changes):
    path, first = stopped
    trainer = train("again", path, max_steps=6, **changes)
    assert trainer.global_step == 6
    assert not {row for rows in trainer.seen.rows.values() for row in rows} & set(first)
    if "objective" in changes:
        assert trainer.lightning_module.objective is changes["objective"]


NEVER_BETTER = {"monitor": "train/loss", "patience": 0, "factor": 0.5, "threshold": 1e9, "threshold_mode": "abs"}


def plateau(**options):
    return functools.partial(ReduceLROnPlateau, **{**NEVER_BETTER, **options})


class TestPlateau:
    def test_it_follows_the_loss_of_every_step(self, train):
        rates = train("run", lr_scheduler=plateau(), max_steps=4).seen.rates
        assert rates == [1e-3, 1e-3, 5e-4, 2.5e-4]  # the first loss is the best; no other is so much better

    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_it_follows_what_a_validation_measures(self, train, mode):
        """Every second step: of an unchanging bound above, no value is better than the first."""
        schedule = plateau(monitor="validate/nelbo", mode=mode)
        options = {"val_check_interval": 2, "limit_val_batches": 1.0}
        trainer = train("run", lr_scheduler=schedule, validation=Validation(Sampler()), max_steps=7, trainer=options)
        assert trainer.seen.rates == [1e-3] * 4 + [5e-4] * 2 + [2.5e-4]

    @pytest.mark.parametrize("lr", [1e-3, 1e-5])
    def test_it_is_resumed(self, train, lr):
        """What it has reduced stays reduced, also of another rate."""
        straight = train("straight", lr_scheduler=plateau(), max_steps=7).seen.rates
        path = Path(train("first", lr_scheduler=plateau()).default_root_dir) / "checkpoints/last.ckpt"
        optimizer = functools.partial(AdamW, lr=lr, weight_decay=0.1)
        again = train("again", path, lr_scheduler=plateau(), optimizer=optimizer, max_steps=7)
        assert again.seen.rates == pytest.approx([rate * lr / 1e-3 for rate in straight[NUM_STEPS:]])
        factor = train("other", path, lr_scheduler=plateau(factor=0.1), max_steps=7).seen.rates
        assert factor == pytest.approx([straight[NUM_STEPS] * 0.1**i for i in range(3)])

    def test_what_nobody_measures(self, train):
        message = r"^model.lr_scheduler.monitor: expected one of .*train/loss.*, got train/los$"
        with pytest.raises(TabomError, match=message):
            train("run", lr_scheduler=plateau(monitor="train/los"))

    def test_that_of_torch_does_not_say_what_it_follows(self):
        with pytest.raises(TabomError, match=r"^model.lr_scheduler: expected lightning.pytorch.cli.ReduceLROnPlateau"):
            TrainingModule(
                PretrainedBackbone("none"), NelboObjective(), AdamW, torch.optim.lr_scheduler.ReduceLROnPlateau
            ).try_optimizer()


class TestLimits:
    def test_time_alone(self, train, caplog):
        """The rate stays after the warm-up, since nobody knows when the training ends."""
        schedule = functools.partial(CosineWithWarmup, num_warmup_steps=2)
        with pytest.raises(SystemExit):
            train("run", lr_scheduler=schedule, trainer={"max_steps": -1, "max_time": {"seconds": 1}})
        assert "num_training_steps: no number of steps limits the training" in caplog.text

    @pytest.mark.parametrize("number", [1, 2])
    def test_overfit_batches(self, train, number):
        trainer = train("run", trainer={"overfit_batches": number, "limit_val_batches": None})
        epochs = list(trainer.seen.rows.values())
        assert epochs[:number] == epochs[number : 2 * number]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": functools.partial(AdamW, lr=-1.0)}, r"^Invalid learning rate: -1.0$"),
        ({"optimizer": functools.partial(AdamW, lr=math.nan)}, r"^Invalid learning rate: nan$"),
        ({"optimizer": functools.partial(AdamW, betas=(1.5, 0.9))}, r"^Invalid beta parameter"),
        (
            {"lr_scheduler": functools.partial(CosineWithWarmup, num_warmup_steps=-1)},
            r"^model.lr_scheduler.num_warmup_steps: expected at least 0, got -1$",
        ),
        ({"lr_scheduler": functools.partial(StepLR, stepsize=1)}, r"stepsize"),
        ({"lr_scheduler": plateau(factor=2.0)}, r"^Factor should be < 1.0.$"),
    ],
)
def test_settings_are_looked_at_before_anything_is_loaded(changes, message):
    settings = Settings(**changes)
    module = TrainingModule(PretrainedBackbone("none"), NelboObjective(), settings.optimizer, settings.lr_scheduler)
    with pytest.raises((TypeError, ValueError), match=message):
        module.try_optimizer()

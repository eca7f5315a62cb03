import json
import re
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from tabom.callbacks import StepProgressBar, step_progress_bar
from tabom.errors import TabomError

ALWAYS = 1e-9
pytestmark = [
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21438
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


def callbacks(*others, **settings):
    bar = {"class_path": "StepProgressBar", "init_args": settings}
    return f"--trainer.callbacks={json.dumps([bar, *({'class_path': name} for name in others)])}"


class Module(lightning.LightningModule):
    """Fails at ``fail_at``, if that is a step."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.fail_at = fail_at

    def training_step(self, batch, batch_idx):
        if self.global_step == self.fail_at:
            raise ZeroDivisionError
        self.log("loss", 1.23456, prog_bar=True)
        return self.layer(batch).mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass

    def on_validation_epoch_end(self):
        self.log("validate/nelbo", 2.5)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def fit(tmp_path, capsys):
    """Lines that a training over six batches and two loaders writes, and its trainer; no rates and times."""

    def call(module=None, bar=None, ckpt_path=None, **settings):
        data = DataLoader(torch.ones(6, 2))
        trainer = lightning.Trainer(
            **{"max_epochs": 1, "num_sanity_val_steps": 0, "callbacks": [bar or StepProgressBar(ALWAYS)], **settings},
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        try:
            trainer.fit(module or Module(), data, [data, data], ckpt_path=ckpt_path)
        finally:
            lines = re.sub(r" in \d+:\d\d|, [\d.]+ \w+/\w+|, [\d:]+ left", "", capsys.readouterr().out).splitlines()
        return lines, trainer

    return call


def test_a_training_as_configured(stage, capsys):
    """The accuracy is of the first parallelism; the table of a test comes after its last line."""
    bar = callbacks(interval=ALWAYS)
    stage("fit", "sft_sd", bar)
    seen = capsys.readouterr().out.splitlines()
    number = r"\d+\.\d"
    measured = rf"accuracy {number} %, KL {number}\d\d"
    rate = rf"in 0:\d\d, {number} \w+/\w+"
    assert re.fullmatch(rf"Validation after step 3: 4 of 4 batches {rate}, {measured}", seen[6])
    assert re.fullmatch(rf"Training: 6 of 6 steps {rate}, loss {number}\d\d, {measured}", seen[-1])
    stage("test", "sft_sd", bar)
    seen = capsys.readouterr().out.splitlines()
    assert seen[0].startswith("Test: 1 of 4 batches")
    assert re.fullmatch(rf"Test: 4 of 4 batches {rate}, {measured}", seen[3])
    assert "Test metric" in "".join(seen[4:])


def test_the_steps_of_all_epochs_are_counted_and_validations_by_batches(fit):
    lines, _ = fit(max_epochs=2, accumulate_grad_batches=2, num_sanity_val_steps=2, check_val_every_n_epoch=2)
    loss, nelbo = ", loss 1.235", ", NELBO 2.500"
    assert lines == [
        *(f"Sanity check: {number} of 4 batches" for number in (1, 2, 3, 4)),
        *(f"Training: {number} of 6 steps{loss}" for number in (0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5)),
        *(f"Validation after step 6: {number} of 12 batches" for number in range(1, 12)),
        f"Validation after step 6: 12 of 12 batches{nelbo}",
        f"Training: 6 of 6 steps{loss}{nelbo}",
    ]


def test_a_resumed_training_starts_in_the_middle(fit, tmp_path):
    _, trainer = fit(limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    lines, _ = fit(ckpt_path=tmp_path / "last.ckpt", limit_val_batches=0, max_epochs=-1, max_steps=8)
    assert lines == ["Training: 7 of 8 steps, loss 1.235", "Training: 8 of 8 steps, loss 1.235"]


def test_what_has_failed_says_how_far_it_came(capsys, fit):
    bar = StepProgressBar()
    with pytest.raises(ZeroDivisionError):
        fit(Module(fail_at=2), bar)
    lines, _ = fit(bar=bar, limit_val_batches=0)
    assert lines == ["Training: 6 of 6 steps, loss 1.235"]


def test_the_loss_is_read_as_seldom_as_it_is_shown(fit, monkeypatch):
    logged = step_progress_bar._logged
    steps = []
    monkeypatch.setattr(
        step_progress_bar, "_logged", lambda trainer: steps.append(trainer.global_step) or logged(trainer)
    )
    fit(bar=StepProgressBar(), limit_val_batches=0)
    assert steps == [6]


def test_a_terminal_shows_one_line_at_a_time(fit, monkeypatch):
    """With two, the log that W&B keeps of a terminal would hold every redraw."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)
    lines, _ = fit(val_check_interval=3)
    text = "\n".join(lines)
    assert "Validation after step 3: 0 of 12 batches" in text
    assert "\x1b[1A" not in text  # up a line
    assert "Training: 6 of 6 steps, loss 1.235, NELBO 2.500" in lines[-2]


def test_one_step_to_try(fit):
    lines, _ = fit(fast_dev_run=True)
    assert lines[0] == "Validation after step 1: 1 of 2 batches"
    assert lines[-1] == "Training: 1 of 1 steps, loss 1.235, NELBO 2.500"


def test_the_bar_can_be_switched_off(fit):
    assert fit(enable_progress_bar=False)[0] == []


def test_only_the_first_process_shows_anything():
    bar, disabled = StepProgressBar(), []
    other = SimpleNamespace(disable=lambda: disabled.append(True))
    for is_first in (True, False):
        bar.setup(SimpleNamespace(progress_bar_callback=other, is_global_zero=is_first), None, "fit")
        assert bar._display._console.quiet is not is_first
    assert disabled == [True, True]


def test_bad_interval():
    with pytest.raises(TabomError) as error:
        StepProgressBar(interval=0)
    assert str(error.value) == "interval: expected seconds above 0, got 0"

"""Keeps what came out of a benchmark."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning import Callback, LightningModule, Trainer

from tabom.callbacks.run_recorder import RunRecorder
from tabom.callbacks.tracking import wandb_runs
from tabom.evaluation.module import BenchmarkModule
from tabom.storage.files import whole_file
from tabom.storage.run_record import BenchmarkResult

if TYPE_CHECKING:
    from tabom.evaluation.run import BenchmarkRun

_COLUMNS = ("prompt", "response", "answer", "target", "score", "num_steps", "num_tokens", "unmask_step")

_COSTS = {
    "num_decoded": "answered by this run",
    "num_steps": "network calls a response",
    "num_tokens": "tokens a response",
    "tokens_per_second": "tokens per second",
}


class BenchmarkWriter(Callback):
    """Writes results to the trainer's ``default_root_dir``, to the run's record and to W&B, and says them.

    ``results.json`` holds lm-eval's results with its configuration and versions, ``samples.jsonl`` its account of each
    question; a table in W&B has prompt, response, verdict, steps and unmasking order. ``tabom evaluate`` adds this
    callback by itself.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the run whose checkpoint is evaluated."""
        states = cast("BenchmarkModule", pl_module).callback_states
        for recorder in _recorders(trainer):
            if recorder.state_key in states:
                recorder.load_state_dict(states[recorder.state_key])

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write."""
        del batch, batch_idx, dataloader_idx
        run = cast("BenchmarkRun | None", outputs)
        if run is None:
            return
        result = cast("BenchmarkModule", pl_module).result(run)
        directory = Path(trainer.default_root_dir)
        with whole_file(directory / "samples.jsonl") as file:
            file.writelines(f"{json.dumps(sample, ensure_ascii=False)}\n".encode() for sample in run.samples)
        with whole_file(directory / "results.json") as file:
            file.write(json.dumps(run.report, ensure_ascii=False, indent=2).encode())
        for recorder in _recorders(trainer):
            recorder.write("benchmark", **asdict(result))
        for wandb_run in wandb_runs(trainer):
            import wandb

            wandb_run.summary.update({f"benchmark/{result.benchmark}/{k}": v for k, v in result.numbers.items()})
            table = wandb.Table(columns=list(_COLUMNS), data=_rows(run))
            wandb_run.log({f"benchmark/{result.benchmark}": table})
        print(_said(result, directory))


def _recorders(trainer: Trainer) -> list[RunRecorder]:
    return [callback for callback in trainer.callbacks if isinstance(callback, RunRecorder)]  # pyright: ignore[reportAttributeAccessIssue]


def _rows(run: "BenchmarkRun") -> list[Any]:
    rows = []
    for one in run.answered:
        decoded = asdict(one.response) if one.response is not None else {}
        own = {"response": decoded.get("text", ""), "unmask_step": str(decoded.get("unmask_step", ""))}
        values = {**vars(one), **decoded, **own}
        rows.append([values.get(column) for column in _COLUMNS])
    return rows


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _said(result: BenchmarkResult, directory: Path) -> str:
    error = result.standard_error
    shown = f"{100 * result.score:.2f}" + ("" if error is None else f" ± {100 * error:.2f}")
    figures = {"questions": f"{len(result.scores):,}", f"{result.metric}, %": shown}
    figures |= {title: _short(result.cost[name]) for name, title in _COSTS.items() if name in result.cost}
    figures |= {name: f"{score:.4f}" for name, score in result.numbers.items() if name.startswith("tds_")}
    width = max(map(len, figures))
    return "\n".join([f"{directory}: {result.benchmark}", *(f"  {name:<{width}}  {v}" for name, v in figures.items())])

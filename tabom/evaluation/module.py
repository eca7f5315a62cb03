"""Evaluation on benchmarks, through lm-eval."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lightning import LightningModule

from tabom.backbones import Backbone, BackboneSource
from tabom.errors import check_range, require
from tabom.evaluation.benchmarks import Benchmark
from tabom.evaluation.data import BenchmarkDataModule
from tabom.evaluation.likelihood import MonteCarlo
from tabom.evaluation.responses import ResponseStore
from tabom.modules.checkpoints import load_weights, read_checkpoint
from tabom.samplers import Sampler
from tabom.storage.run_record import BenchmarkResult

if TYPE_CHECKING:
    from tabom.evaluation.run import BenchmarkRun


class BenchmarkModule(LightningModule):
    """Lets lm-eval ask a model the questions of a benchmark.

    Answers are kept in ``responses-<rank>.jsonl`` of the trainer's ``default_root_dir`` as they come; the same command
    goes on with them, on any number of processes.

    Args:
        backbone: Where the weights come from; read in ``configure_model``.
        sampler: Decodes.
        batch_size: Rows that are decoded at a time; one that is finished makes room for the next.
        early_finish: Whether a row is finished as soon as everything up to its first end of sequence is decoded, which
            changes no response up to there.
        monte_carlo: How continuations are scored, in tasks that compare given answers; None is 128 samples.
        name: What the model is called in tables; None is the checkpoint's or the backbone's path.
        trained_on: Domain that the model was post-trained on; None for a base model.
        compile: Whether the backbone is compiled (``torch.compile``).
        num_discriminated: Questions, the first ones, of whose responses the trajectory discrimination score is
            measured; the paper takes 64. They are decoded in batches of ``batch_size`` without refilling, and the
            head is applied to all masked positions at every step. It changes no response.

    Raises:
        TabomError: If a number is out of range.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: BackboneSource,
        sampler: Sampler,
        batch_size: int = 32,
        early_finish: bool = True,
        monte_carlo: MonteCarlo | None = None,
        name: str | None = None,
        trained_on: Literal["maths", "code"] | None = None,
        compile: bool = False,  # noqa: A002, the name that everybody looks for
        num_discriminated: int = 0,
    ) -> None:
        super().__init__()
        check_range("batch_size", batch_size, least=1)
        check_range("num_discriminated", num_discriminated, least=0)
        self.sampler = sampler
        self.batch_size = batch_size
        self.early_finish = early_finish
        self.monte_carlo = monte_carlo or MonteCarlo()
        self.name = name
        self.num_discriminated = num_discriminated
        self.trained_on: Literal["maths", "code"] | None = trained_on
        self.ckpt_path: str | None = None
        self.callback_states: dict[str, Any] = {}
        self.on_started = self.on_finished = _nobody
        self.source = backbone
        self._is_compiled = compile

    def setup(self, stage: str) -> None:
        """Raise ``TabomError`` if the sampler does not fit the response length."""
        del stage
        self.sampler.check_response_length(self.data.response_length)

    def configure_model(self) -> None:
        """Read the weights, and those of the checkpoint of a training over them.

        Raises:
            TabomError: If there is no such checkpoint, or it holds another adapter than the one that is configured.
        """
        if "backbone" in self._modules:
            return
        self.backbone = self.source.load(self.data.tokenizer)
        if self.ckpt_path is not None:
            checkpoint = read_checkpoint(Path(self.ckpt_path))
            self.callback_states = checkpoint.get("callbacks", {})
            load_weights(self, checkpoint)
        if self._is_compiled:
            self.backbone.compile(dynamic=True)

    @property
    def data(self) -> BenchmarkDataModule:
        """Gives benchmark and tokenizer."""
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        require(
            isinstance(data, BenchmarkDataModule),
            f"data: expected BenchmarkDataModule, got {'none' if data is None else type(data).__name__}",
        )
        return cast("BenchmarkDataModule", data)

    @property
    def model_name(self) -> str:
        """What the model is called in tables."""
        return self.name or self.ckpt_path or getattr(self.source, "path", type(self.source).__name__)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the answers, besides the model, as JSON can hold it."""
        return {
            "sampler": self.sampler.settings(),
            "early_finish": self.early_finish,
            "monte_carlo": vars(self.monte_carlo),
            "precision": self.trainer.precision,
            **self.data.settings(),
        }

    def predict_step(self, batch: Benchmark, batch_idx: int) -> "BenchmarkRun | None":
        """Run the benchmark; the results are on the first process."""
        del batch_idx
        from tabom.evaluation.language_model import Decoding, DiffusionLM  # with lm-eval, which takes seconds
        from tabom.evaluation.run import run_benchmark

        data = self.data
        origin = {"model_fingerprint": self.backbone.fingerprint(), "settings": self.settings()}
        lm = DiffusionLM(
            self.backbone,
            data.tokenizer,
            Decoding(
                self.sampler,
                response_length=data.response_length,
                batch_size=self.batch_size,
                early_finish=self.early_finish,
                keeps_special_tokens=batch.keeps_special_tokens or not data.chat_template,
                monte_carlo=self.monte_carlo,
                num_discriminated=self.num_discriminated,
            ),
            ResponseStore(Path(self.trainer.default_root_dir), origin, self.global_rank),
            rank=self.global_rank,
            world_size=self.trainer.world_size,
            on_started=self.on_started,
            on_finished=self.on_finished,
        )
        settings = {"model": self.model_name, **origin}
        return run_benchmark(batch, lm, settings, limit=data.limit, is_chat=data.chat_template)

    def result(self, run: "BenchmarkRun") -> BenchmarkResult:
        """What the run's record says of a benchmark."""
        benchmark = self.data.benchmark
        return BenchmarkResult(
            benchmark=benchmark.name,
            domain=benchmark.domain,
            task=run.task,
            metric=benchmark.metric,
            model=self.model_name,
            trained_on=self.trained_on,
            scores=run.scores,
            values=run.values,
            cost=run.cost,
            settings=self.settings(),
            discrimination=run.discrimination,
        )


def _nobody(num: int) -> None:
    del num

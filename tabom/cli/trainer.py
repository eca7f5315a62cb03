"""Lightning's trainer with two more verbs."""

from pathlib import Path
from typing import Any, Literal, cast

from lightning import LightningDataModule, LightningModule, Trainer

from tabom.backbones.checkpoint import check_no_model
from tabom.backbones.transformer import TransformersBackbone
from tabom.cli.checks import check_paths
from tabom.data.tokenizer import save_tokenizer
from tabom.errors import require
from tabom.evaluation.module import BenchmarkModule
from tabom.modules.checkpoints import read_checkpoint
from tabom.modules.training import TrainingModule
from tabom.modules.untrusted import check_sharded
from tabom.storage.files import whole_directory


class TabomTrainer(Trainer):
    """Trains, evaluates and predicts as Lightning's does; runs benchmarks, and exports what was trained."""

    @staticmethod
    def check_inputs(verb: str, config: dict[str, Any]) -> None:
        """Look for the files that a verb will read.

        Args:
            verb: The one of the command line.
            config: Its configuration, parsed.

        Raises:
            TabomError: If something is missing.
        """
        check_paths(verb, config)

    def _run(
        self, model: LightningModule, ckpt_path: str | Path | None = None, weights_only: bool | None = None
    ) -> Any:
        """Read a checkpoint without running anything that is in it, unless the command line says otherwise."""
        if ckpt_path is not None and Path(ckpt_path).is_dir() and weights_only is not False:
            check_sharded(Path(ckpt_path))
        return super()._run(model, ckpt_path, weights_only is not False)

    def evaluate(self, model: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None = None) -> None:
        """Run a benchmark; an evaluation that was stopped goes on where it stopped.

        Args:
            model: Says which backbone, with which adapter, and how it decodes.
            datamodule: Gives benchmark and tokenizer.
            ckpt_path: Checkpoint of a training, a file or the directory of a sharded one; None evaluates what the
                configuration of the backbone says.

        Raises:
            TabomError: If the model is no ``BenchmarkModule``, or there is no such checkpoint.
        """
        require(isinstance(model, BenchmarkModule), f"model: expected BenchmarkModule, got {type(model).__name__}")
        cast("BenchmarkModule", model).ckpt_path = ckpt_path
        self.predict(model, datamodule=datamodule, return_predictions=False)

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        output_dir: str,
        kind: Literal["merged", "adapter"] = "merged",
        ckpt_path: str | None = None,
    ) -> None:
        """Write the backbone for other tools, in the layout and by the names of the original checkpoint.

        Args:
            model: Says which backbone, with which adapter, and how far towards the base (``interpolation``).
            datamodule: Gives the tokenizer.
            output_dir: Directory; must not hold a model yet.
            kind: ``merged``: the whole model, an adapter added to its weights, with ``config.json`` and tokenizer.
                ``adapter``: the adapter alone, as plain peft reads it.
            ckpt_path: Checkpoint of a training, a file or the directory of a sharded one; None exports what the
                configuration of the backbone says.

        Raises:
            TabomError: If there is no such checkpoint, no adapter to write, or a model in the output directory; if
                quantised weights would have to be merged.
        """
        path = Path(output_dir)
        check_no_model(path)
        model.trainer = self
        self.datamodule = datamodule
        model.configure_model()
        if ckpt_path is not None:
            checkpoint = read_checkpoint(Path(ckpt_path))
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
        if isinstance(model, TrainingModule):
            model.interpolate()
        backbone = cast("TransformersBackbone", model.backbone)
        if kind == "adapter":
            with whole_directory(path, "export") as new:
                backbone.save_adapter(new)
        else:
            require(
                all(parameter.is_floating_point() for parameter in backbone.parameters()),
                "kind: expected adapter, since the weights are quantised, got merged; to merge it into the original "
                """weights add --model.backbone='{"init_args": {"quantization": null}}'""",
            )
            with whole_directory(path, "export") as new:
                backbone.save_pretrained(new)
                save_tokenizer(datamodule.tokenizer, new)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{path}: {kind} model written")

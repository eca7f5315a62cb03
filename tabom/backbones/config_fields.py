"""Fields of a checkpoint's ``config.json``: which are computed, which change nothing, and which are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub.errors import StrictDataclassError

from tabom.errors import TabomError, require

_OF_ALL = ("block_size",)
"""Fields that every decoder computes, beside the rotary ones."""
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
_CONFIG_ERRORS = (
    *(TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError),
    StrictDataclassError,
)
_WITHOUT_EFFECT = frozenset(
    (
        # names, versions and what a class of transformers returns
        *("architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
        *("id2label", "label2id", "problem_type", "return_dict", "output_attentions", "output_hidden_states"),
        *("tokenizer_class", "use_cache", "task_specific_params", "finetuning_task", "torchscript", "use_bfloat16"),
        # tokens: those of the tokenizer are compared with them; generation is ours
        *("mask_token_id", "pad_token_id", "eos_token_id", "bos_token_id", "sep_token_id", "cls_token_id"),
        # how the same is computed, and how weights start that are read here
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "chunk_size_feed_forward"),
        *("gradient_checkpointing", "pretraining_tp", "initializer_range"),
    )
)


UNTIED: dict[str, Any] = {
    "tie_word_embeddings": False,
    # the embedding of padding is learnt, as it is the end of sequence too; generation is ours
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
}
"""What the configuration of LLaDA and Dream has in common."""


class ConfigFields(NamedTuple):
    """What a family does with the fields of its configuration.

    A field that is not listed may be new and change what is computed: it has to be null or false.

    Attributes:
        family: Name for error messages.
        required: Computed, and have to be there; but for those of the rotary embedding, see :meth:`rope_theta`.
        optional: Computed if they are there.
        values: Have to be one of these values, as the family has them, if they are there; the first is named.
        without_effect: Change nothing, beside those that change nothing in any family.
    """

    family: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    values: Mapping[str, tuple[Any, ...]] = {}
    without_effect: tuple[str, ...] = ()

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise ``TabomError`` if the configuration asks for what is not computed here; its field is named."""
        missing = [key for key in self.required if config.get(key) is None]
        require(not missing, f"config.json: expected the keys of {self._a_model}, found no {', '.join(missing)}")
        known = {*self.required, *self.optional, *self.without_effect, *_ROPE, *_OF_ALL, *_WITHOUT_EFFECT}
        for key, got in config.items():
            if key in self.values:
                self.expect(key, got, self.values[key])
            elif key == "layer_types":
                for kind in got or ():
                    self.expect(key, kind, ("full_attention",))
            elif key not in known:
                require(
                    got is None or got is False,
                    f"config.json: {key}: expected no such field in {self._a_model}, got {got!r}; it might "
                    "change what is computed, take it out if it does not",
                )

    @property
    def _a_model(self) -> str:
        """For error messages."""
        return f"{'an' if self.family[0] in 'AEIOUaeiou' else 'a'} {self.family} model"

    def rope_theta(self, config: Mapping[str, Any]) -> float:
        """Base of a rotary embedding that nothing else changes.

        It stands alone, or among the fields that newer releases of transformers gather, or in both.

        Raises:
            TabomError: If it is missing, given twice with different values, or if positions are scaled.
        """
        found = {"rope_theta": config["rope_theta"]} if config.get("rope_theta") is not None else {}
        for name in ("rope_parameters", "rope_scaling"):
            for key, got in (config.get(name) or {}).items():
                if key == "rope_theta":
                    found[f"{name}.{key}"] = got
                else:
                    expected = {"rope_type": ("default", None), "type": ("default", None)}.get(key, (None, 1.0))
                    self.expect(f"{name}.{key}", got, expected)
        if not found:
            raise TabomError(f"config.json: expected the keys of {self._a_model}, found no rope_theta")
        (first, theta), *others = found.items()
        for key, got in others:
            require(got == theta, f"config.json: {key}: expected {theta!r}, as {first} has it, got {got!r}")
        return float(theta)

    def expect(self, key: str, got: Any, supported: tuple[Any, ...]) -> None:
        """Raise ``TabomError`` unless a field has one of some values."""
        require(
            got in supported, f"config.json: {key}: expected {supported[0]!r}, as {self.family} has it, got {got!r}"
        )


def native_config(make: Callable[[dict[str, Any]], Any], config: dict[str, Any], directory: Path | None = None) -> Any:
    """What is made of a checkpoint's configuration; values of a wrong type are an error in one sentence.

    Args:
        make: Gives a configuration of transformers, or a model.
        config: Content of ``config.json``.
        directory: Where that lies, for error messages.

    Raises:
        TabomError: If there is something wrong with a field.
    """
    place = "" if directory is None else f"{directory}/"
    try:
        return make(config)
    except TabomError as error:
        raise TabomError(f"{place}{error}" if str(error).startswith("config.json: ") else str(error)) from error
    except _CONFIG_ERRORS as error:
        reason = " ".join(str(error).split())
        raise TabomError(f"{place}config.json: expected the configuration of a model ({reason})") from error

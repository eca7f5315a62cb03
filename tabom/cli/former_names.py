"""Names that were others once: configurations and command lines that have them go on working."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn  # pyright: ignore[reportPrivateImportUsage]

_EVALUATION = re.compile(r"^--(model|data)(\.init_args)?\.evaluation(?=[.=]|$)")
_OUTPUT_DIR = re.compile(r"^--trainer\.callbacks\.init_args\.output_dir(?==|$)")
_CALLBACKS = re.compile(r"^--trainer\.callbacks\+?(=|$)")
_ROOT = re.compile(r"^--trainer\.default_root_dir(?==|$)")


def renamed_words(words: Sequence[str]) -> list[str]:
    """A command line with today's names.

    ``evaluation`` of model and data is ``validation``, ``trainer.default_root_dir`` is ``run_dir``, and
    ``trainer.callbacks.init_args.output_dir`` without a callback before it is the writer's.
    """
    has_callbacks, renamed = False, []
    for word in words:
        has_callbacks = has_callbacks or bool(_CALLBACKS.match(word))
        name = _EVALUATION.sub(r"--\1\2.validation", _ROOT.sub("--run_dir", word))
        renamed.append(name if has_callbacks else _OUTPUT_DIR.sub("--writer.output_dir", name))
    return renamed


def renaming(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """A loader of YAML that gives today's names: in ``model`` and ``data``, ``evaluation`` is ``validation``."""

    def load_renamed(stream: str) -> Any:
        content = load(stream)
        for part in ("model", "data") if isinstance(content, dict) else ():
            options = content.get(part)
            for place in (options, options.get("init_args")) if isinstance(options, dict) else ():
                if isinstance(place, dict) and "evaluation" in place:
                    rank_zero_warn(f"{part}.evaluation: this key is called validation now", stacklevel=2)
                    place["validation"] = value = place.pop("evaluation")
                    if isinstance(value, dict) and value.get("class_path") == "Evaluation":
                        value["class_path"] = "Validation"
        return content

    return load_renamed

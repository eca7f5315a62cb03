"""What a run was measured on, and how much of it: runs that differ in it are not compared."""

from collections.abc import Mapping
from typing import Any

OTHERWISE = "measured on"
TASK = "data.task"
_KEYS = {
    stage: (
        f"data.validation.num_{prompts}_prompts",
        *(f"data.validation.{name}" for name in ("num_base_examples", "num_base_prompts", "mask_seed")),
        *(f"trainer.{name}" for name in (limit, "fast_dev_run")),
    )
    for stage, prompts, limit in (
        ("test", "test", "limit_test_batches"),
        ("validate", "validation", "limit_val_batches"),
    )
}


def extent_of(keys: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The task with the file that it was tested on, and how much of it counted, without limits that limit nothing.

    Args:
        keys: Flat configuration.
        stage: ``test`` or ``validate``.
    """
    parts = [str(keys[name]) for name in (TASK, f"{TASK}.test_file") if keys.get(name) is not None]
    sizes = {key.rpartition(".")[2]: keys.get(key) for key in _KEYS[stage]}
    is_all = (None, False)
    return {"": " ".join(parts)} | {
        name: value
        for name, value in sizes.items()
        if value not in is_all and not (type(value) is float and value == 1)
    }


def measured_otherwise(extent: Mapping[str, Any], counted: Mapping[str, Any]) -> str:
    """Why a run does not count whose extent is not the one that counts."""
    differing = [name for name in {**extent, **counted} if extent.get(name) != counted.get(name)]
    return f"{OTHERWISE} {', '.join(f'{name} {extent.get(name)}'.strip() for name in differing)}, not counted"

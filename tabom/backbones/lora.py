"""Low-rank adapters, named as the original checkpoints name their layers."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tabom.backbones.checkpoint import CONFIG_NAME, Naming, check_tensors, read_json
from tabom.errors import TabomError, require

if TYPE_CHECKING:  # peft takes seconds to import and is needed with an adapter only
    from peft import LoraConfig
    from transformers import PreTrainedModel

ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."  # what peft puts before the names of the model it wraps
_TAKEN_OVER: dict[str, tuple[type, ...]] = {
    "r": (int,),
    "lora_alpha": (int, float),
    "lora_dropout": (int, float),
    "use_rslora": (bool,),
    "target_modules": (list, str),
    "task_type": (str, type(None)),
}
_VALUES: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # the others change the base: what is trained is added to what is left of its weights
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
_WITHOUT_EFFECT = (
    *("auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("fan_in_fan_out", "megatron_core", "qalora_group_size", "eva_config", "runtime_config", "ensure_weight_tying"),
)
"""Fields of an adapter's configuration; any other has to be off, since it may change the base or the adapter."""


@dataclass(frozen=True)
class Lora:
    r"""A new low-rank adapter: :math:`W + \frac{\alpha}{r} B A` with W frozen.

    Attributes:
        r: Rank.
        alpha: Scale, divided by the rank.
        target_modules: Linear layers by the last parts of their names in the original checkpoint (``q_proj``; LLaDA's
            ``attn_out``), or one regular expression over the whole name. The language model head is never adapted.
        dropout: On the input of the adapter, in training.

    Raises:
        TabomError: If a value is out of range.

    References:
        Hu et al. 2021, arXiv:2106.09685. The defaults are those of Chen et al. 2026, arXiv:2605.11854, section 5.
    """

    r: int = 16
    alpha: int = 16
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.r >= 1, f"lora.r: expected at least 1, got {self.r}")
        require(self.alpha > 0, f"lora.alpha: expected a number above 0, got {self.alpha}")
        require(0 <= self.dropout < 1, f"lora.dropout: expected 0 to below 1, got {self.dropout}")
        require(len(self.target_modules) > 0, "lora.target_modules: expected at least one name, got none")

    def peft_config(self) -> "LoraConfig":
        """The same for peft."""
        from peft import LoraConfig

        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return LoraConfig(r=self.r, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=targets)


class Adapter:
    """The adapter inside a transformers model.

    Args:
        model: Gets the adapter; everything else in it is frozen.
        config: Rank, scale and target modules, by original names.
        naming: Of the checkpoint family.
        base_name: Written into the adapter's configuration.

    Raises:
        TabomError: If a target module does not exist, or is the language model head.
    """

    def __init__(self, model: "PreTrainedModel", config: "LoraConfig", naming: Naming, base_name: str) -> None:
        self._model = model
        self._naming = naming
        self._config = copy.copy(config)
        self._config.base_model_name_or_path = base_name
        if not isinstance(config.target_modules, str):  # peft keeps a set, whose order changes from run to run
            self._config.target_modules = sorted(config.target_modules or ())
        head = model.get_output_embeddings()
        layers: dict[str, nn.Linear | None] = {
            naming.original(name): module for name, module in model.named_modules() if isinstance(module, nn.Linear)
        }
        for name, tensor in model.state_dict().items():
            parts = [part for part, _ in naming.original_tensors(name, tensor)]
            layers |= dict.fromkeys((part.rpartition(".")[0] for part in parts), None) if len(parts) > 1 else {}
        found = _find_targets(config.target_modules, layers, head)
        native = copy.copy(config)
        native.target_modules = [naming.native(name) for name in sorted(found)]
        model.add_adapter(native, _NAME)
        for parameter in self.parameters():  # small updates would be lost in bfloat16
            parameter.data = parameter.data.float()

    def settings(self) -> dict[str, Any]:
        """What the adapter computes with its weights, besides the names and shapes of these, as JSON can hold it."""
        config = self._config
        return {"r": config.r, "alpha": config.lora_alpha, "use_rslora": config.use_rslora}

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trained ones."""
        return (parameter for parameter in self._model.parameters() if parameter.requires_grad)

    def load(self, directory: Path) -> None:
        """Read weights as plain peft or :meth:`save` wrote them.

        Raises:
            TabomError: If the file is missing or damaged, or a tensor is missing, surplus or misshapen; it is named.
        """
        from peft import set_peft_model_state_dict

        file = directory / ADAPTER_WEIGHTS_NAME
        check_tensors([file], {name: tuple(tensor.shape) for name, tensor in self._state().items()})
        stored = load_file(file)
        native = {self._naming.native(name.removeprefix(_PREFIX)): tensor for name, tensor in stored.items()}
        set_peft_model_state_dict(self._model, native, _NAME)

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply what the adapter adds to the weights."""
        for name, parameter in self._model.named_parameters():
            if ".lora_B." in name:
                parameter.mul_(factor)

    def save(self, path: Path) -> None:
        """Write configuration and weights; plain peft reads them onto the original model."""
        path.mkdir(parents=True, exist_ok=True)
        self._config.save_pretrained(str(path))
        save_file({name: tensor.contiguous() for name, tensor in self._state().items()}, path / ADAPTER_WEIGHTS_NAME)

    def merged_state(self) -> dict[str, Tensor]:
        """Native state of the model with the adapter's product added to each adapted weight, computed in float32."""
        from peft.tuners.lora import LoraLayer

        state = {name: tensor for name, tensor in self._model.state_dict().items() if ".lora_" not in name}
        state = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
        for name, module in self._model.named_modules():
            if isinstance(module, LoraLayer):
                weight = state[f"{name}.weight"]
                layer: Any = module
                state[f"{name}.weight"] = (weight.float() + layer.get_delta_weight(_NAME).float()).to(weight.dtype)
        return state

    def _state(self) -> dict[str, Tensor]:
        from peft import get_peft_model_state_dict

        # "auto" would ask the hub for the base model, and save all of its embeddings where it cannot tell
        state: dict[str, Tensor] = get_peft_model_state_dict(
            self._model, adapter_name=_NAME, save_embedding_layers=False
        )
        return {_PREFIX + self._naming.original(name): tensor.detach() for name, tensor in state.items()}


def base_and_adapter(path: str) -> tuple[str, str | None]:
    """The checkpoint that a path stands for, and the adapter on it, where the path is the directory of an adapter.

    Raises:
        TabomError: If an adapter does not say what its base is.
    """
    file = Path(path) / ADAPTER_CONFIG_NAME
    if not file.is_file() or (Path(path) / CONFIG_NAME).is_file():
        return path, None
    base = read_json(file, "the configuration of an adapter").get("base_model_name_or_path")
    require(isinstance(base, str), f"{file}: base_model_name_or_path: expected the base of the adapter, got {base!r}")
    return str(base), path


def read_adapter_config(directory: Path) -> "LoraConfig":
    """Read ``adapter_config.json``.

    Raises:
        TabomError: If it is missing, of another kind than LoRA, or uses what is not supported here: whatever changes
            the base, so that it is another model with the adapter off, or what the adapter computes.
    """
    from peft import LoraConfig

    file = directory / ADAPTER_CONFIG_NAME
    content = read_json(file, "the configuration of an adapter")
    for key, value in sorted(content.items(), key=lambda field: field[0] != "peft_type"):
        if key in _TAKEN_OVER:
            names = " or ".join(kind.__name__ for kind in _TAKEN_OVER[key])
            require(isinstance(value, _TAKEN_OVER[key]), f"{file}: {key}: expected {names}, got {value!r}")
        elif key in _VALUES:
            expected = " or ".join(map(repr, _VALUES[key]))
            require(value in _VALUES[key], f"{file}: {key}: expected {expected}, got {value!r}")
        elif key not in _WITHOUT_EFFECT:
            require(not value, f"{file}: {key}: expected none, got {value!r}; adapters of this kind are not supported")
    missing = [key for key in ("peft_type", "r", "lora_alpha", "target_modules") if key not in content]
    require(not missing, f"{file}: expected the configuration of an adapter, found no {', '.join(missing)}")
    try:
        Lora(content["r"], content["lora_alpha"], content["target_modules"], content.get("lora_dropout", 0.0))
    except TabomError as error:
        raise TabomError(f"{file}: {error}") from error
    return LoraConfig(**{key: content[key] for key in _TAKEN_OVER if key in content})


def _find_targets(targets: Any, layers: Mapping[str, nn.Linear | None], head: nn.Module | None) -> set[str]:
    """Names of the layers that ``targets`` stands for, as peft understands it; an expert is no layer, but None."""
    refused = {
        name: "the language model head" if layer is head else "an expert"
        for name, layer in layers.items()
        if layer is head or layer is None
    }
    available = sorted({name.rpartition(".")[2] for name in layers.keys() - refused.keys()})
    choice = f"the model has {', '.join(available)}"
    found: set[str] = set()
    for target in [targets] if isinstance(targets, str) else sorted(targets):
        if isinstance(targets, str):
            matches = {name for name in layers if re.fullmatch(target, name)}
        else:
            matches = {name for name in layers if name == target or name.endswith(f".{target}")}
        require(len(matches) > 0, f"target_modules: {target!r} matches no linear layer; {choice}")
        for name in sorted(matches & refused.keys()):
            inside = {re.sub(r"\d+", r"\\d+", re.escape(other)) for other in matches - refused.keys()}
            hint = f"; to adapt the other layers give the pattern '{'|'.join(sorted(inside))}'" if inside else ""
            raise TabomError(
                f"target_modules: {target!r} matches {refused[name]} {name}, which is never adapted; {choice}{hint}"
            )
        found |= matches
    return found

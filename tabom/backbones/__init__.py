"""Masked diffusion language models behind one contract: hidden states, and a head for the asked-for positions."""

from tabom.backbones.base import Backbone, BackboneSource, Denoiser
from tabom.backbones.lora import Lora
from tabom.backbones.pretrained import PretrainedBackbone
from tabom.backbones.tiny import NewTinyDLM, TinyDLM

__all__ = ["Backbone", "BackboneSource", "Denoiser", "Lora", "NewTinyDLM", "PretrainedBackbone", "TinyDLM"]

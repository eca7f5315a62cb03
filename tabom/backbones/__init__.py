"""Masked diffusion language models behind one contract: hidden states, and a head for the asked-for positions."""

from tabom.backbones.base import Backbone, BackboneSource
from tabom.backbones.pretrained import PretrainedBackbone
from tabom.backbones.tiny import NewTinyDLM, TinyDLM

__all__ = ["Backbone", "BackboneSource", "NewTinyDLM", "PretrainedBackbone", "TinyDLM"]

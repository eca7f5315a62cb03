"""A compiled backbone sees few shapes, and what it gives is the same."""

import pytest
import torch
from helpers import TINY
from torch.testing import assert_close

from tabom.backbones import NewTinyDLM
from tabom.errors import TabomError
from tabom.samplers.denoiser import Denoiser
from tabom.samplers.static_shapes import StaticShapes


@pytest.fixture
def compiled(monkeypatch):
    """Options of what would be compiled, which runs as it is."""
    options = []
    monkeypatch.setattr(torch, "compile", lambda backbone, **given: options.append(given) or backbone)
    return options


@pytest.fixture
def backbone(tokenizer, compiled):
    """In float64."""
    torch.manual_seed(1)
    return NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).double().eval()


def canvas(rows, width, num_padded):
    generator = torch.Generator().manual_seed(rows * 1000 + width)
    ids = torch.randint(5, 90, (rows, width), generator=generator)
    return ids, (torch.arange(width) >= num_padded).expand(rows, -1)


def test_padding_changes_nothing_and_shapes_are_few(backbone, compiled):
    shapes = StaticShapes(backbone, num_rows=12)
    assert isinstance(shapes, Denoiser)
    assert compiled == [{"dynamic": False, "mode": None}]
    for widest in (70, 100):
        shapes.for_canvases(widest)
        for rows in (1, 2, 3, 5, 6, 7, 12):
            for width in (20, 33, 64, 65, widest):
                ids, is_there = canvas(rows, width, num_padded=3)
                assert_close(shapes(ids, is_there), backbone(ids, is_there), rtol=0, atol=1e-12)
    assert shapes.shapes == {(rows, width) for rows in (2, 3, 6, 12) for width in (64, 96, 128)}  # both share them


def test_a_canvas_is_no_longer_than_the_model_allows(backbone, monkeypatch):
    monkeypatch.setattr(type(backbone), "max_length", property(lambda self: 80))
    shapes = StaticShapes(backbone, num_rows=2).for_canvases(70)
    shapes(*canvas(2, 70, num_padded=0))
    assert shapes.shapes == {(2, 80)}


def test_numbers_out_of_range(backbone):
    with pytest.raises(TabomError, match="num_rows"):
        StaticShapes(backbone, num_rows=0)

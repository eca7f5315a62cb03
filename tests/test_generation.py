import subprocess
import sys

import pytest
import torch
from helpers import family_checkpoint, illada_config, illada_tokenizer_files

import tabom
from tabom.backbones.stock import IlladaBackbone
from tabom.errors import TabomError
from tabom.samplers import Sampler
from tabom.types import DecodedBatch

PROMPTS = ["sudoku 1204=", "a", "def f(x):\n"]


@pytest.fixture(scope="module")
def model(checkpoint):
    return tabom.load(str(checkpoint))


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_a_response_does_not_depend_on_the_other_prompts(model, batch_size):
    together = model.generate(PROMPTS, response_length=12, batch_size=batch_size)
    assert len(together) == len(PROMPTS)
    for prompt, generation in zip(PROMPTS, together, strict=True):
        [alone] = model.generate([prompt], response_length=12)
        assert (alone.response_ids, alone.unmask_step) == (generation.response_ids, generation.unmask_step)


def test_a_generation_is_a_trajectory(model):
    [one] = model.generate(["a"], response_length=6, sampler=Sampler(tokens_per_step=2))
    assert sorted(one.unmask_step) == [0, 0, 1, 1, 2, 2]
    assert len(one.response_ids) == len(one.unmask_entropy) == 6
    assert all(entropy >= 0 for entropy in one.unmask_entropy)
    assert one.text == model.tokenizer.decode(one.response_ids)


def test_a_family_decodes_as_its_authors_do(model, tmp_path):
    """With the sampler, mask token and template that no file of the checkpoint names."""
    ids = illada_tokenizer_files(tmp_path / "model")
    family_checkpoint(tmp_path / "model", IlladaBackbone, illada_config(**ids))
    illada = tabom.load(str(tmp_path / "model"))
    assert illada.backbone.mask_token_id == 5
    assert (illada.sampler.score, illada.sampler.block_length) == ("confidence", 32)
    assert (model.sampler.score, model.sampler.block_length) == ("entropy", None)
    by_default, by_confidence, by_entropy = (
        illada.generate(["a"], response_length=40, sampler=sampler)
        for sampler in (None, Sampler(score="confidence", block_length=32), Sampler())
    )
    assert by_default == by_confidence != by_entropy


def test_text_ends_at_the_end_of_sequence(model, monkeypatch):
    eos = model.tokenizer.eos_token_id
    letters = model.tokenizer("ab")["input_ids"]

    def decode(self, backbone, batch, **options):
        ids = torch.tensor([[*letters, eos, letters[0]]])
        return DecodedBatch(ids, torch.arange(4)[None], torch.zeros(1, 4))

    monkeypatch.setattr(Sampler, "decode", decode)
    [one] = model.generate(["x"], response_length=4)
    assert one.text == "ab"


def test_progress_is_told(model):
    told = []
    model.generate(PROMPTS, response_length=4, batch_size=1, on_finished=told.append)
    assert told == [1, 1, 1]


def test_no_prompt_gives_nothing(model):
    assert model.generate([]) == []


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("abc", {}, "prompts: expected several texts, got one; write [prompt]"),
        ([""], {}, "prompt 0: expected a prompt of at least one token, got none"),
        (["a"], {"response_length": 0}, "response_length: expected at least 1, got 0"),
        (
            ["a"],
            {"response_length": 2, "sampler": Sampler(tokens_per_step=3)},
            "tokens_per_step: expected at most 2, got 3",
        ),
        (["a"], {"chat": True}, "chat_template: expected a tokenizer that has one, got one without"),
    ],
)
def test_bad_input(model, prompts, options, message):
    with pytest.raises(TabomError) as error:
        model.generate(prompts, **options)
    assert str(error.value) == message


def test_the_package_gives_the_names_that_one_needs():
    for name in tabom.__all__:
        assert getattr(tabom, name)
    with pytest.raises(AttributeError, match="'tabom' has no attribute 'nothing'"):
        tabom.nothing  # noqa: B018


def test_the_package_loads_nothing_by_itself():
    code = "import sys, tabom; print(tabom.__version__); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

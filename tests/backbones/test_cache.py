"""Keys and values that are kept: what is computed from them equals the whole pass, or a loop written out by hand."""

import pytest
import torch
from backbones.test_masked_lm import CONFIGS as MASKED_LM_CONFIGS
from backbones.test_pretrained import CONFIGS, tiny_config
from transformers import BertForMaskedLM

from tabom.backbones import Lora
from tabom.backbones.cache import CanvasCache
from tabom.backbones.masked_lm import MaskedLMBackbone
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError

FAMILIES = {"tiny": (TinyDLM, tiny_config), **CONFIGS}
PADDING = {"none": ((0, 0, 0), (0, 0, 0)), "left": ((0, 3, 5), (0, 0, 0)), "both": ((2, 0, 4), (0, 3, 1))}
LENGTH = 12
# transformers 5.23 compiles flex attention by ways that torch calls outdated
COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def make(name, dtype=torch.float32, **settings):
    """A model with weights large enough that every position matters to every other."""
    family, config = FAMILIES[name]
    backbone = family.from_config(config(), **settings)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 1.0)
    return backbone.to(dtype).eval()


@pytest.fixture(params=FAMILIES)
def backbone(request):
    return make(request.param)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def canvas(padding="none", seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 120, (3, LENGTH), generator=generator)
    columns = torch.arange(LENGTH)
    left, right = (torch.tensor(widths)[:, None] for widths in PADDING[padding])
    return ids, (columns >= left) & (columns < LENGTH - right)


POSITIONS = {
    "end of the canvas": torch.tensor([[8, 9, 10, 11, 11], [7, 8, 9, 10, 11], [10, 11, 11, 11, 11]]),
    "with gaps": torch.tensor([[2, 3, 7, 11, 11], [3, 5, 7, 8, 8], [6, 8, 9, 9, 9]]),
    "one": torch.tensor([[2], [4], [7]]),
    "from the first": torch.tensor([[0, 1], [0, 5], [0, 0]]),
}


def at(hidden, positions):
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


def stale(ids, seed=5):
    """The same canvas with half of its tokens changed."""
    generator = torch.Generator().manual_seed(seed)
    is_changed = torch.rand(ids.shape, generator=generator) < 0.5
    return torch.where(is_changed, (ids + 60) % 120, ids)


def close(got, expected, tolerance=1e-5):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


class TestSameInput:
    @pytest.mark.parametrize("padding", PADDING)
    def test_keeping_changes_no_bit(self, backbone, padding):
        ids, mask = canvas(padding)
        hidden, cache = backbone.forward_with_cache(ids, mask)
        assert torch.equal(hidden, backbone(ids, mask))
        config = backbone.transformer.config
        shape = (3, config.num_key_value_heads, LENGTH, config.hidden_size // config.num_attention_heads)
        assert [tensor.shape for tensor in cache.keys + cache.values] == [shape] * 4

    @pytest.mark.parametrize("padding", PADDING)
    def test_the_whole_canvas_needs_nothing_from_the_cache(self, backbone, padding):
        ids, mask = canvas(padding)
        hidden, cache = backbone.forward_with_cache(ids, mask)
        garbage = CanvasCache([keys + 100 for keys in cache.keys], [values - 100 for values in cache.values])
        everywhere = torch.arange(LENGTH).expand(3, -1)
        close(backbone.forward_from_cache(ids, mask, everywhere, garbage), hidden)

    @pytest.mark.parametrize("padding", PADDING)
    @pytest.mark.parametrize("where", POSITIONS)
    def test_some_positions(self, backbone, padding, where):
        ids, mask = canvas(padding)
        hidden, cache = backbone.forward_with_cache(ids, mask)
        before = [tensor.clone() for tensor in cache.keys + cache.values]
        got = backbone.forward_from_cache(ids, mask, POSITIONS[where], cache)
        close(got, at(hidden, POSITIONS[where]))
        assert all(map(torch.equal, cache.keys + cache.values, before))

    @pytest.mark.parametrize("attention", ["eager", pytest.param("flex_attention", marks=COMPILED)])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_other_implementations_of_attention(self, name, attention):
        backbone = make(name, attn_implementation=attention)
        ids, mask = canvas("left")
        hidden, cache = backbone.forward_with_cache(ids, mask)
        for positions in POSITIONS.values():
            close(backbone.forward_from_cache(ids, mask, positions, cache), at(hidden, positions))

    @pytest.mark.parametrize("name", FAMILIES)
    def test_half_precision(self, name):
        backbone = make(name, torch.bfloat16)
        ids, mask = canvas("left")
        hidden, cache = backbone.forward_with_cache(ids, mask)
        positions = POSITIONS["end of the canvas"]
        got = backbone.forward_from_cache(ids, mask, positions, cache)
        assert {tensor.dtype for tensor in (got, *cache.keys, *cache.values)} == {torch.bfloat16}
        close(got, at(hidden, positions), 0.05)


def by_hand(backbone, ids, kept_ids, positions):
    """Hidden states (P, D) of one row without padding, column by column; ``kept_ids`` is what the cache was made of."""
    model = backbone.transformer.base_model
    is_shifted = type(backbone) is FAMILIES["Dream"][0]
    source = [max(column - is_shifted, 0) for column in positions]
    computed = sorted({*positions, *source})
    kept = layers_by_hand(model, kept_ids, list(range(len(ids))), None)[1]
    hidden = layers_by_hand(model, ids, computed, kept)[0]
    return torch.stack([hidden[computed.index(column)] for column in source])


def layers_by_hand(model, ids, columns, kept):
    x, pairs = model.embed_tokens(ids[columns]), []
    for layer in model.layers:
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        queries, keys, values = (
            projection(normed).unflatten(-1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        queries, keys = (rotated(model, heads, columns) for heads in (queries, keys))
        all_keys, all_values = (list(part) for part in (kept[len(pairs)] if kept else ([None] * len(ids),) * 2))
        for place, column in enumerate(columns):
            all_keys[column], all_values[column] = keys[place], values[place]
        pairs.append((all_keys, all_values))
        groups = queries.shape[1] // keys.shape[1]
        answers = torch.empty_like(queries)
        for place in range(len(columns)):
            for head in range(queries.shape[1]):
                score = torch.stack([key[head // groups] @ queries[place, head] for key in all_keys])
                weight = (score / attention.head_dim**0.5).softmax(0)
                answers[place, head] = weight @ torch.stack([value[head // groups] for value in all_values])
        x = x + attention.o_proj(answers.flatten(1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.norm(x), pairs


def rotated(model, heads, columns):
    half = heads.shape[-1] // 2
    frequency = model.config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    angle = (torch.tensor(columns)[:, None] * frequency)[:, None]
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


class TestOtherInput:
    @pytest.mark.parametrize("where", ["end of the canvas", "with gaps", "one"])
    def test_it_is_what_a_loop_by_hand_gives(self, backbone, where):
        """Also that no row depends on the positions of another: the loop knows one row."""
        ids, mask = canvas("left")
        positions = POSITIONS[where] if where != "one" else POSITIONS[where] + 1
        cache = backbone.forward_with_cache(stale(ids), mask)[1]
        got = backbone.forward_from_cache(ids, mask, positions, cache)
        for row, left in enumerate(PADDING["left"][0]):
            columns = (positions[row] - left).tolist()
            close(got[row], by_hand(backbone, ids[row, left:], stale(ids)[row, left:], columns))
        assert ((got - at(backbone(ids, mask), positions)).abs().amax(-1) > 1e-3).all()

    def test_only_the_positions_are_computed(self, backbone):
        ids, mask = canvas()
        cache = backbone.forward_with_cache(ids, mask)[1]
        seen = []
        backbone.transformer.base_model.layers[0].mlp.register_forward_hook(lambda m, x, y: seen.append(y.shape[:2]))
        backbone.forward_from_cache(ids, mask, POSITIONS["end of the canvas"], cache)
        is_dream = type(backbone) is FAMILIES["Dream"][0]
        assert seen == [(3, 6 if is_dream else 5)]


class TestRowsAndColumns:
    def check(self, backbone, ids, mask, cache):
        """Keys and values are those of this canvas."""
        expected = backbone.forward_with_cache(ids, mask)[1]
        for got, right in zip(cache.keys + cache.values, expected.keys + expected.values, strict=True):
            is_real = mask[:, None, :, None]
            close(got.where(is_real, 0), right.where(is_real, 0))
        positions = torch.tensor([[ids.shape[1] - 3, ids.shape[1] - 1]]).expand(len(ids), -1)
        close(backbone.forward_from_cache(ids, mask, positions, cache), at(backbone(ids, mask), positions))

    @pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([False, True, True])])
    def test_select(self, backbone, rows):
        ids, mask = canvas("left")
        cache = backbone.forward_with_cache(ids, mask)[1]
        some = cache.select(rows)
        self.check(backbone, ids[rows], mask[rows], some)
        some.keys[0].zero_()
        self.check(backbone, ids, mask, cache)

    def test_without_left(self, backbone):
        ids, mask = canvas("left")
        rows = torch.tensor([1, 2])
        cache = backbone.forward_with_cache(ids, mask)[1].select(rows)
        narrow = cache.without_left(3)
        self.check(backbone, ids[rows, 3:], mask[rows, 3:], narrow)
        narrow.values[1].zero_()
        self.check(backbone, ids[rows], mask[rows], cache)

    @pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([True, False, True])])
    def test_assign(self, backbone, rows):
        ids, mask = canvas("left")
        changed = ids.index_put((rows,), stale(ids)[rows])
        cache = backbone.forward_with_cache(ids, mask)[1]
        cache.assign(rows, backbone.forward_with_cache(changed[rows], mask[rows])[1])
        self.check(backbone, changed, mask, cache)

    def test_cat(self, backbone):
        ids, mask = canvas("left")
        parts = [backbone.forward_with_cache(ids[rows], mask[rows])[1] for rows in (slice(0, 1), slice(1, 3))]
        self.check(backbone, ids, mask, CanvasCache.cat(parts))


class TestAdapter:
    @pytest.mark.parametrize("name", FAMILIES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_with_and_without(self, name, dtype):
        backbone = make(name, dtype)
        ids, mask = canvas("left")
        positions = POSITIONS["end of the canvas"]
        tolerance = 1e-5 if dtype is torch.float32 else 0.05
        plain = backbone(ids, mask)
        with torch.inference_mode(mode=False):
            backbone.add_adapter(Lora(r=2, alpha=4, target_modules=("q_proj", "k_proj", "v_proj")), "base")
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted = backbone(ids, mask)
        assert (adapted - plain).abs().max() > 0.1
        for model, expected in ((backbone, adapted), (backbone.reference(), plain)):
            hidden, cache = model.forward_with_cache(ids, mask)
            assert torch.equal(hidden, expected)
            got = model.forward_from_cache(ids, mask, positions, cache)
            close(got, at(expected, positions), tolerance)


class TestUnsupported:
    def test_masked_language_models(self):
        backbone = MaskedLMBackbone(BertForMaskedLM(MASKED_LM_CONFIGS["bert"]), {})
        ids, mask = canvas()
        message = "cache: expected a backbone that can keep keys and values, got MaskedLMBackbone"
        with pytest.raises(TabomError) as error:
            backbone.forward_with_cache(ids, mask)
        assert str(error.value) == message
        with pytest.raises(TabomError) as error:
            backbone.forward_from_cache(ids, mask, POSITIONS["one"], CanvasCache([], []))
        assert str(error.value) == message

    def test_flash_attention(self, backbone):
        backbone.transformer.config._attn_implementation = "flash_attention_2"
        with pytest.raises(TabomError) as error:
            backbone.forward_with_cache(*canvas())
        assert str(error.value) == (
            "cache: expected attn_implementation to be one of ['sdpa', 'eager', 'flex_attention'], "
            "got flash_attention_2"
        )

    def test_gradient_checkpointing_in_training(self, backbone):
        """Transformers then leaves the cache empty, and a pass from an empty one would look at its positions alone."""
        backbone.transformer.activation_checkpointing_enable({"use_reentrant": False})
        with pytest.raises(TabomError) as error:
            backbone.train().forward_with_cache(*canvas())
        assert str(error.value) == "cache: expected a backbone in evaluation mode, got one in training"
        backbone.eval().forward_with_cache(*canvas())

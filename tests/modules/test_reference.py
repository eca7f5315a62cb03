"""What an objective compares the model with: the base, then snapshots of the model; and a training with them."""

import io
import json

import pytest
import torch
from helpers import ScriptedDLM, corrupted_batch

from tabom.backbones import Lora, PretrainedBackbone
from tabom.backbones.snapshot import Snapshot
from tabom.backbones.target_pass import TargetPass, _draw
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError
from tabom.functional import token_statistics
from tabom.modules.reference import Reference
from tabom.objectives.t3d import T3DObjective
from tabom.seeding import RowDraws

IDS = torch.tensor([[7, 8, 1, 1, 9, 1], [7, 1, 1, 8, 9, 9]])
# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(params=["all weights", "adapter"])
def backbone(request, checkpoint, tokenizer):
    """In training mode, as a source gives it; the adapter has dropout and is no longer zero."""
    lora = Lora(r=2, alpha=4, dropout=0.5) if request.param == "adapter" else None
    model = PretrainedBackbone(str(checkpoint), lora=lora).load(tokenizer)
    if lora:
        disturb(model)
    return model


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def disturb(model, seed=0):
    """One optimizer step of a random gradient, as training does it."""
    generator = torch.Generator().manual_seed(seed)
    parameters = list(trained(model).values())
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    optimizer.step()
    optimizer.zero_grad()


def corrupted():
    is_target = [[False, False, True, True, False, True], [False, True, True, False, False, False]]
    return corrupted_batch(is_target, mask_token_id=2)


def logits(denoiser):
    with torch.no_grad():
        return denoiser.logits(denoiser(IDS, torch.ones_like(IDS, dtype=torch.bool)))


def present_logits(model):
    model.eval()
    result = logits(model)
    model.train()
    return result


def reference_nll(reference, model, base, step, **options):
    statistics, *_ = reference.statistics(
        T3DObjective(**options),
        corrupted(),
        backbone=model,
        base=base,
        step=step,
        draws=RowDraws.of_numbers(0, torch.arange(2)),
    )
    return statistics.nll


def test_a_snapshot_keeps_the_weights_of_its_step(backbone):
    expected, snapshot = present_logits(backbone), Snapshot(backbone)
    for seed in range(3):
        disturb(backbone, seed)
        assert torch.equal(logits(snapshot), expected)
    assert not torch.allclose(present_logits(backbone), expected, atol=0.1)
    assert snapshot.weights.keys() == trained(backbone).keys()
    assert list(snapshot.parameters()) == []


def test_a_pass_leaves_the_model_as_it_was(backbone):
    """Parameters are the optimizer's, in their places; single modules keep their mode; also after an error."""
    snapshot = Snapshot(backbone)
    disturb(backbone)
    next(module for module in backbone.modules() if isinstance(module, torch.nn.Linear)).eval()

    def state():
        return [(name, id(p), p.data_ptr(), p.requires_grad) for name, p in backbone.named_parameters()]

    before, modes = state(), [module.training for module in backbone.modules()]
    values = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    assert {True, False} == set(modes)
    logits(snapshot)
    with pytest.raises(IndexError):
        snapshot(torch.full_like(IDS, 10_000), torch.ones_like(IDS, dtype=torch.bool))
    assert state() == before
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(p, values[name]) for name, p in backbone.named_parameters())


def gradients(model, *, first=None, between=None):
    """Of the sum of the targets' negative log-likelihoods; the same dropout every time."""
    if first:
        logits(first)
    torch.manual_seed(0)
    loss = TargetPass(model, corrupted()).statistics().nll.sum()
    if between:
        logits(between)
    return torch.autograd.grad(loss, list(trained(model).values()))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_do_not_see_the_reference(backbone, precision):
    """Mixed precision casts each weight once a step and keeps it: that must not be the snapshot's."""
    snapshot = Snapshot(backbone)
    disturb(backbone)

    def run(**passes):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            return gradients(backbone, **passes)

    expected = run()
    assert any(gradient.abs().max() > 0.01 for gradient in expected)
    for passes in ({"first": snapshot}, {"between": snapshot}):
        for got, wanted in zip(run(**passes), expected, strict=True):
            assert torch.equal(got, wanted)


def test_the_snapshot_does_not_see_the_casts_of_the_model(backbone):
    with torch.autocast("cpu", torch.bfloat16):
        expected = present_logits(backbone)
    snapshot = Snapshot(backbone)
    disturb(backbone)
    with torch.autocast("cpu", torch.bfloat16):
        backbone(IDS, torch.ones_like(IDS, dtype=torch.bool))
        assert torch.equal(logits(snapshot), expected)


def test_a_snapshot_follows_the_model_to_its_device(backbone):
    """A checkpoint is read on the CPU, before the model moves."""
    snapshot = Snapshot(backbone, Snapshot(backbone).weights)
    backbone.to("meta")
    assert snapshot.logits(torch.zeros(1, 16, device="meta")).is_meta
    assert all(values.is_meta for values in snapshot.weights.values())


def test_a_new_snapshot_every_interval(backbone):
    reference, base = Reference(), backbone.reference()
    seen, present = [], []
    for step in range(7):
        present.append(present_nll(backbone))
        accumulated = range(2)
        seen += [reference_nll(reference, backbone, base, step, reference_interval=3) for _ in accumulated]
        disturb(backbone, step)
    for step, expected in enumerate([None, None, None, 3, 3, 3, 6]):
        wanted = TargetPass(base, corrupted()).statistics().nll if expected is None else present[expected]
        assert torch.equal(seen[2 * step], wanted), step
        assert torch.equal(seen[2 * step + 1], wanted), step
    assert len({tuple(values.flatten().tolist()) for values in seen}) == 3


def present_nll(model):
    model.eval()
    with torch.no_grad():
        result = TargetPass(model, corrupted()).statistics().nll
    model.train()
    return result


def test_without_an_interval_it_is_the_base_for_ever(backbone):
    reference, base = Reference(), backbone.reference()
    first = reference_nll(reference, backbone, base, 0)
    disturb(backbone)
    assert torch.equal(reference_nll(reference, backbone, base, 1000), first)
    assert reference.state_dict() == {}


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_loaded_reference_goes_on(backbone):
    reference, base = Reference(), backbone.reference()
    assert reference.state_dict() == {}
    reference_nll(reference, backbone, base, 4, reference_interval=4)
    disturb(backbone, 1)
    expected = reference_nll(reference, backbone, base, 5, reference_interval=4)
    state = through_a_file(reference.state_dict())
    assert state["round"] == 1

    loaded = Reference()
    loaded.load_state_dict(state, backbone)
    for values in state["weights"].values():  # it keeps its own
        values.zero_()
    disturb(backbone, 2)
    assert torch.equal(reference_nll(loaded, backbone, base, 7, reference_interval=4), expected)
    present = present_nll(backbone)
    assert torch.equal(reference_nll(loaded, backbone, base, 8, reference_interval=4), present)
    assert not torch.equal(present, expected)


def test_loading_nothing_keeps_the_base(backbone):
    reference, base = Reference(), backbone.reference()
    expected = reference_nll(reference, backbone, base, 0)
    reference.load_state_dict({}, backbone)
    disturb(backbone)
    assert torch.equal(reference_nll(reference, backbone, base, 1, reference_interval=2), expected)


def test_a_run_resumed_without_an_interval_returns_to_the_base(backbone):
    reference, base = Reference(), backbone.reference()
    expected = reference_nll(reference, backbone, base, 0)
    reference_nll(reference, backbone, base, 4, reference_interval=2)
    disturb(backbone)
    assert torch.equal(reference_nll(reference, backbone, base, 5), expected)


def test_the_start_is_the_model_before_the_first_step(backbone):
    """It is compared with until the first snapshot, and again by a run without an interval."""
    start, present = Snapshot(backbone), present_nll(backbone)
    reference, base = Reference(start), backbone.reference()
    for step in (0, 1000):
        assert torch.equal(reference_nll(reference, backbone, base, step), present)
        disturb(backbone, step)
    later = present_nll(backbone)
    assert torch.equal(reference_nll(reference, backbone, base, 4, reference_interval=4), later)
    assert torch.equal(reference_nll(reference, backbone, base, 5), present)
    assert not torch.equal(present, later)


def test_the_start_is_stored_and_taken_over_where_it_is_compared_with(backbone):
    start, present = Snapshot(backbone), present_nll(backbone)
    state = through_a_file(Reference(start).state_dict())
    disturb(backbone)
    base = backbone.reference()
    with_start, without = Reference(Snapshot(backbone)), Reference()
    for reference in (with_start, without):
        reference.load_state_dict(state, backbone)
    assert torch.equal(reference_nll(with_start, backbone, base, 0), present)
    assert torch.equal(reference_nll(without, backbone, base, 0), TargetPass(base, corrupted()).statistics().nll)
    assert not torch.equal(reference_nll(without, backbone, base, 0), present)


def draws_for(batch):
    return RowDraws.of_numbers(0, torch.arange(len(batch.query_ids)))


def test_a_draw_lies_where_the_distribution_function_passes_it():
    logits = torch.tensor([0.25, 0.5, 0.25, 0.0]).log().expand(6, 4)
    quantile = torch.tensor([0.0, 0.24, 0.26, 0.74, 0.76, 1.0], dtype=torch.float64)
    assert _draw(logits, 1.0, quantile).tolist() == [0, 0, 1, 1, 2, 3]


TABLE = [[0.0, 1.0, 2.0, 7.0, 9.0], [1.5, 0.0, 0.0, 1.0, 2.0]]


class Scripted(ScriptedDLM):
    """The last two ids are likely, but the mask token's and nobody's."""

    unused_ids = (3,)

    def __init__(self):
        super().__init__(TABLE, mask_token_id=4)


def test_at_temperature_0_the_likeliest_tokens_are_sampled():
    batch = corrupted_batch([[False, True, True], [False, False, True]])
    sampled = TargetPass(Scripted(), batch).sample(0.0, draws_for(batch))
    assert sampled.tolist() == [[0, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_distribution_at_the_temperature(temperature):
    num_rows = 5000
    batch = corrupted_batch([[False, True, True]] * num_rows)
    sampled = TargetPass(Scripted(), batch).sample(temperature, draws_for(batch))
    assert not sampled[:, 0].any()
    for column, scores in enumerate(TABLE):
        shares = sampled[:, 1 + column].bincount(minlength=3).double() / num_rows
        expected = (torch.tensor(scores[:3]).double() / temperature).softmax(0)
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.025)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_sample_does_not_depend_on_the_rows_that_are_looked_at_together(monkeypatch, temperature):
    batch = corrupted_batch([[False, True, True]] * 50)
    whole, in_parts = (
        monkeypatch.setitem(token_statistics._CHUNK_NUMBERS, "cpu", number)
        or TargetPass(Scripted(), batch).sample(temperature, draws_for(batch))
        for number in (10**6, 3 * 4)
    )
    assert torch.equal(whole, in_parts)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_sampled_where_nothing_is_asked_for(temperature):
    batch = corrupted_batch([[False, False]])
    seen = TargetPass(Scripted(), batch)
    sampled = seen.sample(temperature, draws_for(batch))
    assert sampled.tolist() == [[0, 0]]
    assert seen.statistics(sampled).sampled_nll.tolist() == [[0.0, 0.0]]


def test_sampled_tokens_are_scored_by_both(backbone):
    base = backbone.reference()
    disturb(backbone)
    statistics, sampled, _ = Reference().statistics(
        T3DObjective(sample_temperature=1.0),
        corrupted(),
        backbone=backbone,
        base=base,
        step=0,
        draws=draws_for(corrupted()),
    )
    where = corrupted().is_target
    for denoiser, got in ((base, statistics), (backbone, TargetPass(backbone.eval(), corrupted()).statistics(sampled))):
        seen = TargetPass(denoiser, corrupted())
        expected = -seen.head.logits(seen.hidden).log_softmax(-1).gather(1, sampled[where][:, None]).squeeze(1)
        torch.testing.assert_close(got.sampled_nll[where], expected)
        assert not got.sampled_nll[~where].any()
    assert not statistics.nll.requires_grad
    assert not torch.equal(sampled, corrupted().clean_ids * where)


def weights(cli):
    return {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def settings(**options):
    objective = {"class_path": "tabom.objectives.t3d.T3DObjective", "init_args": options}
    return f"--model.objective={json.dumps(objective)}"


def checkpoint_every_step(directory):
    options = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}", "dirpath": str(directory)}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}
    return f"--trainer.callbacks={json.dumps([callback])}"


LORA = "--model.backbone.lora={'r': 2, 'alpha': 4}"
CODE_FORM = {"path": "prefix_levels", "states": "one_block", "sample_temperature": 1.0}


@pytest.mark.parametrize(
    ("options", "step"),
    [([settings(reference_interval=2), LORA], 4), ([settings(reference_interval=2, **CODE_FORM)], 3)],
    ids=["adapter and the paper's form, a snapshot due", "all weights and the code's form, between snapshots"],
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(stage, tmp_path, options, step):
    options = ["--trainer.limit_val_batches=0", *options]
    straight = stage("fit", "tabom", *options, checkpoint_every_step(tmp_path / "straight"))
    paths = [tmp_path / "straight" / f"step={number}.ckpt" for number in range(1, 7)]
    states = [torch.load(path, weights_only=True)["reference"] for path in paths]
    assert [state.get("round", 0) for state in states] == [0, 0, 1, 1, 2, 2]
    resume = [f"--ckpt_path={paths[step - 1]}", checkpoint_every_step(tmp_path / "resumed")]
    resumed = stage("fit", "tabom", *options, *resume)
    assert resumed.trainer.global_step == 6
    assert equal(weights(resumed), weights(straight))


def adapter_in(directory, checkpoint, tokenizer, seed):
    backbone = PretrainedBackbone(str(checkpoint), lora=Lora(r=2, alpha=4)).load(tokenizer)
    disturb(backbone, seed)
    backbone.save_adapter(directory)
    return directory


BOLTZMANN_KL = "--model.objective.ranking.surrogate=boltzmann_kl"
WITH_REFERENCE = {"t3d": [settings()], "kl": [BOLTZMANN_KL]}


@pytest.mark.parametrize("reference", ["base", "start"])
@pytest.mark.parametrize("objective", WITH_REFERENCE)
def test_from_an_adapter_the_first_step_differs_from_the_base_and_not_from_the_start(
    stage, tmp_path, checkpoint, tokenizer, objective, reference
):
    adapter = adapter_in(tmp_path / "adapter", checkpoint, tokenizer, seed=1)
    options = [
        *("--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1", "--trainer.callbacks=null"),
        *WITH_REFERENCE[objective],
        f"--model.backbone.adapter={adapter}",
        f"--model.reference={reference}",
    ]
    name = {"t3d": "train/log_ratio", "kl": "train/ranking"}[objective]
    metrics = stage("fit", "tabom", *options, "--trainer.max_steps=1").trainer.callback_metrics
    assert (abs(metrics[name].item()) < 1e-6) == (reference == "start")


@pytest.mark.parametrize("reference", ["base", "start"])
@pytest.mark.parametrize("objective", WITH_REFERENCE)
def test_a_training_from_an_adapter_is_resumed(stage, tmp_path, checkpoint, tokenizer, objective, reference):
    """Although the directory of the adapter holds another one by now."""
    adapter = adapter_in(tmp_path / "adapter", checkpoint, tokenizer, seed=1)
    options = [
        *("--trainer.limit_val_batches=0", *WITH_REFERENCE[objective]),
        *(f"--model.backbone.adapter={adapter}", f"--model.reference={reference}"),
    ]
    straight = stage("fit", "tabom", *options, checkpoint_every_step(tmp_path / "straight"))
    path = tmp_path / "straight" / "step=3.ckpt"
    stored = torch.load(path, weights_only=True)["reference"]
    assert stored.keys() == ({"start"} if reference == "start" else set())
    assert all(".lora_" in name for name in stored.get("start", {}))
    adapter_in(adapter, checkpoint, tokenizer, seed=2)
    resume = [f"--ckpt_path={path}", checkpoint_every_step(tmp_path / "resumed")]
    resumed = stage("fit", "tabom", *options, *resume)
    assert equal(weights(resumed), weights(straight))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.objective=NelboObjective"], "NelboObjective, in these settings, which ignores it, got start"),
        ([settings()], "reference: expected base with a backbone that has no adapter, where the start is the base"),
    ],
)
def test_a_start_that_nothing_compares_with(stage, options, message):
    with pytest.raises(TabomError, match=message):
        stage("fit", "tabom", "--trainer.limit_val_batches=0", "--model.reference=start", *options)


def test_a_step_takes_two_forward_passes(stage, monkeypatch):
    forward, calls = TinyDLM.forward, []

    def counted(self, *arguments):
        calls.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(TinyDLM, "forward", counted)
    options = ["--trainer.limit_val_batches=0", "--trainer.callbacks=null"]
    cli = stage("fit", "tabom", *options, settings(reference_interval=2))
    assert calls == [False, True] * 6
    logged = {name for name in cli.trainer.callback_metrics if name.startswith("train/")}
    assert logged == {f"train/{name}" for name in ("loss", "real", "fake", "path", "reconstruction", "log_ratio")}

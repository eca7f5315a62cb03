"""How much a NELBO and its gradient vary from draw to draw of the masks, with mask ratios spread evenly over the batch.

The batch and the model stay the same; only the masks change. ``ratio`` is the variance with stratified ratios over that
with independent ones, in the same run: of the loss, and of the whole gradient around its mean.

    make demo
    python benchmarks/gradient_variance.py --json benchmarks/results/FILE.json
"""

from pathlib import Path

import common
import torch

from tabom.backbones import Backbone, PretrainedBackbone
from tabom.backbones.target_pass import TargetPass
from tabom.data import TrajectoryDataModule
from tabom.objectives import NelboObjective
from tabom.seeding import RowDraws
from tabom.tasks import Sudoku4x4
from tabom.types import TrajectoryBatch

WEIGHTINGS = ("mean", "inverse_ratio")


def variances(
    backbone: Backbone, batch: TrajectoryBatch, objective: NelboObjective, num_draws: int, mask_token_id: int
) -> dict[str, float]:
    """Of the loss, and of the gradient, over the draws."""
    weights = [weight for weight in backbone.parameters() if weight.requires_grad]
    total, squares, losses = torch.zeros(sum(weight.numel() for weight in weights), dtype=torch.float64), 0.0, []
    for number in range(num_draws):
        draws = RowDraws.of_numbers(number, batch.row_numbers)
        corrupted = objective.corrupt(batch, mask_token_id, draws)
        loss = objective.terms(TargetPass(backbone, corrupted).statistics(), corrupted)["loss"]
        gradient = torch.cat([part.flatten().double() for part in torch.autograd.grad(loss, weights)])
        total += gradient
        squares += gradient.square().sum().item()
        losses.append(loss.item())
    mean_square = (total / num_draws).square().sum().item()
    return {
        "loss": torch.tensor(losses, dtype=torch.float64).var().item(),
        "gradient": (squares / num_draws - mean_square) * num_draws / (num_draws - 1),
    }


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--base", default="runs/demo/base")
    parser.add_argument("--trajectories", default="runs/demo/trajectories")
    parser.add_argument("--batch", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    for path in (arguments.base, arguments.trajectories):
        if not Path(path).is_dir():
            parser.error(f"{path}: expected the demo's base and trajectories; make demo makes them")
    record = common.record("gradient_variance", arguments)
    data = TrajectoryDataModule(arguments.trajectories, Sudoku4x4(), 19, tokenizer=arguments.base)
    data.setup("fit")
    backbone = PretrainedBackbone(arguments.base).load(data.tokenizer)
    rows = data.train_dataloader().dataset
    record["variance"] = {}
    print(f"{'weighting':14} {'batch':>5} {'loss ratio':>11} {'gradient ratio':>15}")
    for weighting in WEIGHTINGS:
        for size in arguments.batch:
            batch = data.collate([rows[number] for number in range(size)])
            independent, stratified = (
                variances(
                    backbone,
                    batch,
                    NelboObjective(weighting=weighting, stratified_ratios=is_stratified),
                    arguments.draws,
                    data.special_ids.mask,
                )
                for is_stratified in (False, True)
            )
            ratio = {name: stratified[name] / independent[name] for name in independent}
            record["variance"][f"{weighting}, {size} rows"] = {
                "independent": independent,
                "stratified": stratified,
                "ratio": ratio,
            }
            print(f"{weighting:14} {size:5} {ratio['loss']:11.2f} {ratio['gradient']:15.2f}")
    common.save(record, arguments)


if __name__ == "__main__":
    main()

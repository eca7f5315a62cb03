"""What is minimised: each objective corrupts a batch and turns token statistics into a loss and its logged terms."""

from tabom.objectives.alignment import Alignment
from tabom.objectives.base import Objective
from tabom.objectives.d_opsd import DOpsdObjective
from tabom.objectives.dinfer import DInferObjective
from tabom.objectives.dparallel import DParallelObjective
from tabom.objectives.exact_order import ExactOrderObjective
from tabom.objectives.gift import GiftObjective
from tabom.objectives.lift import LiftObjective
from tabom.objectives.nelbo import NelboObjective
from tabom.objectives.papl import PaplObjective
from tabom.objectives.ranking import Ranking
from tabom.objectives.replay import Replay
from tabom.objectives.schedules import Warmup
from tabom.objectives.t3d import T3DObjective
from tabom.objectives.tabom import TabomObjective
from tabom.objectives.tad import TadObjective

__all__ = [
    "Alignment",
    "DInferObjective",
    "DOpsdObjective",
    "DParallelObjective",
    "ExactOrderObjective",
    "GiftObjective",
    "LiftObjective",
    "NelboObjective",
    "Objective",
    "PaplObjective",
    "Ranking",
    "Replay",
    "T3DObjective",
    "TabomObjective",
    "TadObjective",
    "Warmup",
]

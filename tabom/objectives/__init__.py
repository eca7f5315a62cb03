"""What is minimised: each objective corrupts a batch and turns token statistics into a loss and its logged terms."""

from tabom.objectives.base import Objective
from tabom.objectives.nelbo import NelboObjective
from tabom.objectives.tabom import TabomObjective

__all__ = ["NelboObjective", "Objective", "TabomObjective"]

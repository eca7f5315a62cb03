"""Metrics with a functional core and a thin torchmetrics shell; correct under distributed training."""

from tabom.metrics.forgetting import Forgetting
from tabom.metrics.order_agreement import OrderAgreement
from tabom.metrics.trajectory_discrimination import TrajectoryDiscriminationScore

__all__ = ["Forgetting", "OrderAgreement", "TrajectoryDiscriminationScore"]

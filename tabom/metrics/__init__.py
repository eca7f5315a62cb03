"""Metrics with a functional core and a thin torchmetrics shell; correct under distributed training."""

from tabom.metrics.accuracy_kept import AccuracyKept
from tabom.metrics.calibration_error import CalibrationError
from tabom.metrics.forgetting import Forgetting
from tabom.metrics.largest_drop import LargestDrop
from tabom.metrics.mask_ratio_curve import MaskRatioCurve
from tabom.metrics.mean_curve import MeanCurve
from tabom.metrics.order_agreement import OrderAgreement
from tabom.metrics.order_correlation import OrderCorrelation
from tabom.metrics.pass_at_k import PassAtK
from tabom.metrics.trajectory_discrimination import TrajectoryDiscriminationScore

__all__ = [
    "AccuracyKept",
    "CalibrationError",
    "Forgetting",
    "LargestDrop",
    "MaskRatioCurve",
    "MeanCurve",
    "OrderAgreement",
    "OrderCorrelation",
    "PassAtK",
    "TrajectoryDiscriminationScore",
]

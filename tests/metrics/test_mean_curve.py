import torch

from tabom.metrics.mean_curve import MeanCurve


def test_mean_by_place():
    metric = MeanCurve(3)
    metric.update(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]))
    metric.update(torch.tensor([5.0]), torch.tensor([0]))
    torch.testing.assert_close(metric.compute(), torch.tensor([3.5, torch.nan, 2.5]).double(), equal_nan=True)
    metric.reset()
    metric.update(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert metric.compute().isnan().all()

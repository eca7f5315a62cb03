"""Two processes give the loss and gradients of one, also where one of them has no pair; none waits for the other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_ranks

SCRIPT = Path(two_ranks.__file__)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "results.pt"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SCRIPT.parents[2], SCRIPT.parents[1])))}
    command = [sys.executable, str(SCRIPT), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert result.returncode == 0, result.stderr
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", two_ranks.OBJECTIVES)
def test_two_processes_are_one(results, name):
    one, two = results[name]["one"], results[name]["two"]
    assert one["terms"]["loss"] != 0
    torch.testing.assert_close(two["terms"], one["terms"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(two["gradients"], one["gradients"], rtol=1e-9, atol=1e-10)
    assert any(gradient.abs().max() > 1e-4 for gradient in one["gradients"].values())

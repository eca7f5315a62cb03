"""The whole method on one device: pretraining, distillation, TABOM in one piece and with its weights sharded (FSDP2).

Runs ``configs/pipelines/card.yaml`` in a directory of its own; the figures are the seconds of each step and what the
trainings measured.

    python benchmarks/card.py --device cuda --json benchmarks/results/FILE.json
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common

from tabom.storage.run_record import find_records

ROOT = Path(__file__).resolve().parents[1]
DRY = {
    "pretraining_steps": 4,
    "steps": 2,
    "warmup": 1,
    "queries": 24,
    "prompts": 2,
    "batch_size": 4,
    "only_verified": "false",
}


def main() -> None:
    """Run the pipeline, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--dry", action="store_true", help="so few steps that nothing is learnt")
    arguments = parser.parse_args()
    record = common.record("card", arguments)
    values = {"accelerator": "gpu" if arguments.device == "cuda" else "cpu", **(DRY if arguments.dry else {})}
    words = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tabom", "pipeline", str(ROOT / "configs/pipelines/card.yaml"), *words]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": path})
        steps = sorted((Path(folder) / "runs/card/steps").glob("*.json"))
        record["seconds"] = {file.stem: json.loads(file.read_text())["seconds"] for file in steps}
        records = find_records([Path(folder) / "runs/card"])
        record["measured"] = {each.directory.name: each.checks[-1].values for each in records if each.checks}
    common.save(record, arguments)


if __name__ == "__main__":
    main()

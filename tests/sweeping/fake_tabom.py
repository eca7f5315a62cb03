"""Stands in for ``tabom``: writes the record that a run writes, and does what its options say."""

import json
import os
import sys
import time
from pathlib import Path


def wait_for(is_there):
    stop = time.monotonic() + 20
    while not is_there():
        if time.monotonic() > stop:
            sys.exit("waited in vain")
        time.sleep(0.01)


def main():
    options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
    directory, x, run_id = Path(options["run_dir"]), float(options["x"]), os.environ["WANDB_RUN_ID"]
    (directory / "argv.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
    if options.get("crash") == options["x"] and not Path("mended").exists():
        sys.exit("it burns")

    (directory / "records").mkdir(exist_ok=True)
    record = directory / f"records/fit-{len(list(directory.glob('records/*')))}-{run_id}.jsonl"

    def write(kind, **content):
        with record.open("a") as file:
            file.write(json.dumps({"kind": kind, **content}) + "\n")

    start = {"verb": "fit", "run_id": run_id, "time": "", "command": [], "config_files": [], "seed": 1}
    write("start", **start, config={}, environment={}, inputs={}, wandb=None)
    for step in range(1, 1 + int(options.get("checks", 1))):
        score = 0.0 if step == 1 and "late" in options else -((x - 0.3) ** 2)
        score += float(options.get("by_seed", 0)) * int(options.get("seed_everything", 0))
        write("metrics", stage="validate", step=step, seconds=0.0, values={"score": score})
        if step > 1:
            continue
        if "checkpoint" in options:
            (directory / "checkpoints").mkdir(exist_ok=True)
            (directory / "checkpoints/last.ckpt").touch()
        if "gate" in options:
            wait_for(Path(options["gate"]).exists)
        if "together" in options:
            wait_for(lambda: len(list(directory.parent.glob("*/records/*"))) >= int(options["together"]))
        if options.get("endless") == options["x"]:
            wait_for(lambda: False)
    write("end", state="finished", reason="", seconds=1.5, num_tokens=1, device_hours=0.1)


if __name__ == "__main__":
    main()

"""Stands in for ``tabom``: notes that it ran, and does what its options say."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def wait_for(is_there):
    stop = time.monotonic() + 20
    while not is_there():
        if time.monotonic() > stop:
            sys.exit("waited in vain")
        time.sleep(0.01)


def stop(number, frame):
    print("tabom: stopped")
    sys.exit(75)


def main():
    signal.signal(signal.SIGTERM, stop)
    verb, *words = sys.argv[1:]
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "WANDB_MODE", "WANDB_RUN_ID")}
    with Path("made.jsonl").open("a") as file:
        file.write(json.dumps([sys.argv[1:], variables]) + "\n")
    print("it says", *words)
    if "together" in options:
        wait_for(lambda: len(Path("made.jsonl").read_text().splitlines()) >= int(options["together"]))
    if "device" in options:
        Path(options["device"]).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        wait_for(lambda: len(list(Path().glob("device-*"))) == 2)
    if "run_dir" in options:
        directory = Path(options["run_dir"])
        (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
        (directory / "checkpoints/last.ckpt").touch()
    if "gate" in options:
        wait_for(Path(options["gate"]).exists)
    if "crash" in options and not Path("mended").exists():
        sys.exit("it burns")
    if "code" in options:
        sys.exit(int(options["code"]))
    if "score" in options:
        (directory / "records").mkdir()
        start = {"verb": verb, "run_id": "r", "time": "", "command": [], "config_files": [], "seed": 1}
        start |= {"config": {}, "environment": {}, "inputs": {}, "wandb": None}
        check = {"stage": "validate", "step": 1, "seconds": 0.0, "values": {"score": float(options["score"])}}
        lines = [{"kind": "start", **start}, {"kind": "metrics", **check}]
        (directory / f"records/{verb}-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()

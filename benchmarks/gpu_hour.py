"""Everything that is to be known about one GPU, in one run without anybody beside it: at most 25 minutes.

Each part is a process of its own, which writes ``DIRECTORY/PART.json`` when it ends. A part that fails, or takes longer
than it may, does not stop the others; its last lines are in ``DIRECTORY/gpu_hour.json`` and on the console. Parts whose
figures are there already are not run again, so the same command goes on after an interruption. At tiny sizes some parts
are one and the same command; it is run once, and its figures are those of all of them.

    python benchmarks/gpu_hour.py --output_dir benchmarks/results/gpu-h100-2026-11-30
    python benchmarks/gpu_hour.py --output_dir /tmp/dry --dry        # every part at tiny sizes on a CPU
    python benchmarks/gpu_hour.py --output_dir benchmarks/results/gpu-h100-2026-11-30 --table
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
MINUTES = 25
LLADA, QWEN3 = ("--model", "llada-8b"), ("--model", "qwen3-0.6b")
SMALL = ("--vocabulary", "256", "--hidden", "32", "--head_size", "16", "--layers", "2")
SMALL_DECODING = ("--prompt", "8", "--response", "8", "--block", "4")


class Part(NamedTuple):
    """A process of the hour.

    Attributes:
        name: Of its file of figures.
        script: In this directory.
        options: On the GPU.
        dry: Options in their place on a CPU.
        minutes: It is stopped after these.
    """

    name: str
    script: str
    options: tuple[str, ...]
    dry: tuple[str, ...]
    minutes: float


def _step(name: str, *options: str, minutes: float) -> Part:
    small = (*SMALL, "--length", "16", "--window", "4", "--batch", "2", "--kinds", "tabom", "--rounds", "1")
    return Part(name, "train_step.py", (*options, "--rounds", "5"), small, minutes)


def _decoding(name: str, shape: tuple[str, ...], batch: int, prompt: int, response: int, minutes: float) -> Part:
    size = ("--prompt", str(prompt), "--response", str(response), "--block", "32")
    options = (*shape, *size, "--batch", str(batch), "--queries", str(batch), "--rounds", "1", "--cases", "none")
    small = (*SMALL, *SMALL_DECODING, "--batch", "2", "--queries", "2", "--rounds", "1", "--cases", "none")
    ways = ("--ways", "ours", "compiled")
    return Part(name, "distill.py", (*options, *ways), (*small, *(ways if batch == 32 else ())), minutes)


_QWEN3_SIZE = ("--prompt", "256", "--response", "64", "--block", "32")
_EAGER = ("released", "cross_entropy", "masking", "tabom", "replay", "plain_rows", "base_pass")
_CHECKPOINTING = ("--batch", "8", "--gradient_checkpointing", "--kinds", "tabom")
PARTS = (
    Part("environment", "environment.py", (), (), 1),
    _step("step-llada", *LLADA, "--batch", "8", "--kinds", "cross_entropy", "masking", "tabom", minutes=4),
    _decoding("decoding-llada-32", LLADA, 32, 256, 32, 2),
    _decoding("decoding-llada-8", LLADA, 8, 256, 32, 2),
    _decoding("decoding-llada-1", LLADA, 1, 256, 32, 2),
    _step("step-qwen3", *QWEN3, "--batch", "8", "--kinds", *_EAGER, minutes=2),
    _decoding("decoding-qwen3-64", QWEN3, 64, 256, 64, 2),
    _decoding("decoding-qwen3-8", QWEN3, 8, 256, 64, 2),
    _decoding("decoding-qwen3-1", QWEN3, 1, 256, 64, 2),
    Part(
        "loss",
        "token_statistics.py",
        ("--hidden", "4096", "--vocabulary", "126464", "--batch", "8", "--case", "segment", "random"),
        (
            "--hidden",
            "16",
            "--vocabulary",
            "64",
            "--batch",
            "2",
            "--length",
            "16",
            "--window",
            "4",
            "--case",
            "segment",
        ),
        2,
    ),
    Part(
        "exactness",
        "exactness.py",
        (
            *QWEN3,
            "--prompt",
            "256",
            "--response",
            "64",
            "--block",
            "32",
            "--queries",
            "64",
            "--batches",
            "1",
            "8",
            "64",
        ),
        (*SMALL, *SMALL_DECODING, "--queries", "4", "--batches", "1", "4"),
        3,
    ),
    Part(
        "attention",
        "attention.py",
        ("--batch", "8", "--heads", "32", "--head_size", "128", "--length", "512"),
        ("--batch", "1", "--heads", "1", "--head_size", "16", "--length", "32", "--rounds", "1"),
        2,
    ),
    Part("card", "card.py", (), ("--dry",), 4),
    _step("step-llada-checkpointing", *LLADA, *_CHECKPOINTING, minutes=2),
    _decoding("decoding-llada-64", LLADA, 64, 256, 32, 3),
    _step("step-qwen3-compiled", *QWEN3, "--batch", "8", "--kinds", "tabom", "compiled", "fused", minutes=3),
)


def command_of(part: Part, output: Path, *, is_dry: bool) -> list[str]:
    """The process of a part."""
    device = ("--device", "cpu") if is_dry else ("--device", "cuda", "--dtype", "bfloat16")
    options = part.dry if is_dry else part.options
    return [sys.executable, str(HERE / part.script), *device, *options, "--json", str(output)]


def _first_of(part: Part) -> Part:
    """The first part that is the same command at tiny sizes."""
    return next(other for other in PARTS if (other.script, other.dry) == (part.script, part.dry))


def run(part: Part, output: Path, *, seconds: float, is_dry: bool) -> dict[str, Any]:
    """Run a part, and say what became of it."""
    start = time.monotonic()
    process = subprocess.Popen(
        command_of(part, output, is_dry=is_dry),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        state = "finished" if process.returncode == 0 and output.is_file() else f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        printed = _stop(process)
        state = f"stopped after {seconds:.0f} s"
    return {"state": state, "seconds": time.monotonic() - start, "printed": printed.splitlines()[-12:]}


def _stop(process: "subprocess.Popen[str]") -> str:
    """End a part and what it had started; a pipeline hands the first signal on to its steps."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=20)[0]
        except subprocess.TimeoutExpired:
            continue
    return ""


def table(directory: Path) -> str:
    """What was measured, as Markdown: training steps and decoding by shape."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}
    lines = ["| training step | seconds | model FLOP utilisation | peak memory, GiB |", "| --- | --- | --- | --- |"]
    for name, found in read.items():
        if found.get("benchmark") == "train_step":
            peak = found["peak_bytes"]["tabom"] / 2**30
            seconds = found["median_seconds"]["tabom"]
            lines.append(f"| {name} | {seconds:.3f} | {found['model_flop_utilisation']:.0%} | {peak:.2f} |")
    lines += ["", "| decoding | way | queries per second | over the official loop | same text | MFU |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, found in read.items():
        if found.get("benchmark") == "distill":
            for way, case in found["cases"]["none"]["ways"].items():
                rate, ratio = case["queries_per_second"], case["ratio"]["time"]
                share, used = case["same_text"], case["model_flop_utilisation"]
                lines.append(f"| {name} | {way} | {rate:.2f} | {ratio:.2f} | {share:.0%} | {used:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="every part at tiny sizes on a CPU")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--table", action="store_true", help="print the figures of a directory, and run nothing")
    arguments = parser.parse_args()
    directory: Path = arguments.output_dir
    if arguments.table:
        print(table(directory))
        return
    directory.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    summary: dict[str, Any] = {}
    for number, part in enumerate(PARTS, 1):
        output = directory / f"{part.name}.json"
        seconds = min((300 if arguments.dry else 60) * part.minutes, end - time.monotonic())
        same = directory / f"{_first_of(part).name}.json"
        if arguments.dry and same.is_file() and not output.is_file():
            shutil.copyfile(same, output)
        if output.is_file():
            summary[part.name] = {"state": "was there"}
        elif seconds <= 0:
            summary[part.name] = {"state": "no time left"}
        else:
            summary[part.name] = run(part, output, seconds=seconds, is_dry=arguments.dry)
        found = summary[part.name]
        print(f"[{number}/{len(PARTS)}] {part.name}: {found['state']}, {found.get('seconds', 0):.0f} s", flush=True)
        if found["state"] not in ("finished", "was there"):
            print("".join(f"    {line}\n" for line in found.get("printed", [])), end="", flush=True)
        (directory / "gpu_hour.json").write_text(json.dumps(summary, indent=2) + "\n")
    sys.exit(any(found["state"] not in ("finished", "was there") for found in summary.values()))


if __name__ == "__main__":
    main()

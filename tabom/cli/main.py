"""The one command line: a thin dispatcher, so that verbs that need no model start at once."""

import gc
import importlib
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType, ModuleType

from tabom.signals import EXIT_CODE, handled_by

VERBS = {
    "fit": ("tabom.cli.lightning_cli", "train a backbone with an objective"),
    "validate": ("tabom.cli.lightning_cli", "measure on the validation split"),
    "test": ("tabom.cli.lightning_cli", "measure on the test split"),
    "predict": ("tabom.cli.lightning_cli", "decode queries and write trajectory shards"),
    "evaluate": ("tabom.cli.lightning_cli", "run a benchmark: GSM8K, MATH500, HumanEval, MBPP, IFEval or another"),
    "chat": ("tabom.cli.verbs.chat", "talk to a model, and watch in which order it decodes"),
    "generate": ("tabom.cli.verbs.generate", "decode prompts with a model, to a terminal or as JSON"),
    "export": ("tabom.cli.lightning_cli", "write a trained model or adapter for other tools"),
    "convert": ("tabom.cli.verbs.convert", "write a GGUF file as a checkpoint"),
    "trajectories": ("tabom.cli.verbs.trajectories", "check, show, compare, import, annotate or export trajectories"),
    "view": ("tabom.cli.verbs.view", "write a page that plays trajectories step by step"),
    "report": ("tabom.cli.verbs.report", "write a page of tables and figures from finished runs"),
    "sweep": ("tabom.sweeping.command", "run a sweep file, on this machine or with W&B"),
    "init": ("tabom.cli.verbs.init", "copy the shipped configurations and sweeps, to change them"),
    "pipeline": ("tabom.pipelines.command", "run a pipeline file: many commands, each when what it needs is there"),
    "demo": ("tabom.pipelines.command", "run everything from a tiny base model to a table and a figure"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one verb; bad input ends with one sentence on stderr and exit code 1 or 2.

    Args:
        args: Words after ``tabom``; default is the command line.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not sys.flags.safe_path and "" not in sys.path:
        sys.path.insert(0, "")  # as for python -m tabom: a config may name classes of files that lie here
    match words:
        case [] | ["-h" | "--help"]:
            print(_usage())
        case ["--version"]:
            print(f"tabom {version('tabom')}")
        case [verb, *rest] if VERBS.get(verb, ("",))[0] == "tabom.cli.lightning_cli" and {"-h", "--help"} & {*rest}:
            from tabom.cli.help import text

            print(text(verb))
        case [verb, *_] if verb in VERBS:
            _run(VERBS[verb][0], words)
        case [verb, *_]:
            _fail(f"{verb}: expected one of {', '.join(VERBS)}, --help or --version{_hint(verb)}", code=2)


def _run(module: str, words: list[str]) -> None:
    from tabom.errors import TabomError

    try:
        with handled_by(_stop):  # until the verb has something better to do
            _imported(module).run(words)
    except TabomError as error:
        _fail(str(error), code=1)
    except Exception as error:
        from tabom.cli.input_errors import note_of_defect, sentence

        if (text := sentence(error)) is not None:
            _fail(text, code=1)
        if note := note_of_defect(error):
            error.add_note(note)
        raise


def _imported(name: str) -> ModuleType:
    """A module, imported without a search for garbage: there is none, and the search takes a tenth of the time."""
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.enable()


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    print(f"tabom: stopped by {signal.Signals(number).name}", file=sys.stderr)
    sys.exit(EXIT_CODE)


def _hint(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _fail(message: str, code: int) -> None:
    print(f"tabom: error: {' '.join(map(str.strip, message.splitlines()))}", file=sys.stderr)
    sys.exit(code)


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<14}{text}" for verb, (_, text) in VERBS.items())
    return (
        "usage: tabom VERB --config FILE [--key value ...]\n\n"
        "Post-train diffusion language models on the decoding trajectories they produce themselves.\n\n"
        f"verbs:\n{verbs}\n\n"
        "tabom VERB --help lists the verb's options; tabom --version prints the version."
    )

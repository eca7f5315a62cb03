"""The process behind ``verifier: math``: a line of JSON ``[reference, response]`` in, ``true`` or ``false`` out.

Run as a file, so that it starts without torch. Imports the standard library and math-verify only.
"""

import contextlib
import json
import logging
import sys


def answer_questions() -> None:
    """Answer until the input ends; math-verify gives each of its steps 5 seconds."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs the whole response at every timeout
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            expected, found = (math_verify.parse(text) for text in json.loads(line))
            print(json.dumps(math_verify.verify(expected, found)), file=answers, flush=True)


if __name__ == "__main__":
    answer_questions()

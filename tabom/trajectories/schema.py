"""Columns of a shard."""

from datasets import Features, List, Value

SCHEMA_VERSION = 2


def features(response_length: int) -> Features:
    """One row is one trajectory; lists of the response hold ``response_length`` entries each.

    ``sample`` numbers the decodings of one query from 0; ``unmask_step`` counts from 0 and is -1 where decoding
    revealed nothing; ``unmask_entropy`` is in nats, rounded to a multiple of 2**-20, NaN where none was recorded;
    ``response`` is the text up to the first end-of-sequence token; ``reference`` is the task's own answer.
    """
    return Features(
        {
            "query_id": Value("string"),
            "sample": Value("int16"),
            "is_verified": Value("bool"),
            "prompt_ids": List(Value("int32")),
            "response_ids": List(Value("int32"), length=response_length),
            "unmask_step": List(Value("int16"), length=response_length),
            "unmask_entropy": List(Value("float32"), length=response_length),
            "prompt": Value("string"),
            "response": Value("string"),
            "reference": Value("string"),
        }
    )

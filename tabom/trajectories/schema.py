"""Columns of a shard."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 2


def columns(response_length: int) -> "pa.Schema":
    """One row is one trajectory; lists of the response hold ``response_length`` entries each.

    ``sample`` numbers the decodings of one query from 0; ``unmask_step`` counts from 0 and is -1 where decoding
    revealed nothing; ``unmask_entropy`` is in nats, rounded to a multiple of 2**-20, NaN where none was recorded;
    ``response`` is the text up to the first end-of-sequence token; ``reference`` is the task's own answer.
    """
    import pyarrow as pa

    return pa.schema(
        {
            "query_id": pa.string(),
            "sample": pa.int16(),
            "is_verified": pa.bool_(),
            "prompt_ids": pa.list_(pa.int32()),
            "response_ids": pa.list_(pa.int32(), response_length),
            "unmask_step": pa.list_(pa.int16(), response_length),
            "unmask_entropy": pa.list_(pa.float32(), response_length),
            "prompt": pa.string(),
            "response": pa.string(),
            "reference": pa.string(),
        }
    )

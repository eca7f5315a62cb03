"""What several tests of prompts need."""

import json

import pytest
from helpers import dream_tokenizer_files, llada_config, llada_tokenizer_files

from tabom.data.tokenizer import load_tokenizer


@pytest.fixture(params=["llada", "dream"])
def chat(request, tmp_path):
    """(tokenizer, family): one template opens the assistant's turn unasked, the other when it is asked to."""
    if request.param == "llada":
        ids = llada_tokenizer_files(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(llada_config(**ids)))
    else:
        dream_tokenizer_files(tmp_path)
    return load_tokenizer(str(tmp_path)), request.param

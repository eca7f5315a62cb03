"""IFEval on all its prompts: instructions whose verdict a few lines tell; sentences and languages offline."""

import hashlib
import json
import random
import re
import sys

import nltk
import pytest
from scripted import ask

from tabom.errors import TabomError
from tabom.evaluation.benchmarks import PaperBenchmark
from tabom.evaluation.benchmarks.ifeval import prepare_checkers

SENTENCE = "the old dog walks through the quiet town with its friend"
GERMAN = "Der alte Hund geht jeden Morgen mit seinem besten Freund durch die ruhige Stadt."


def compares(relation, number, threshold):
    return number < threshold if relation == "less than" else number >= threshold


def num_words(text):
    return len(re.findall(r"\w+", text))


CHECKS = {  # the instruction's arguments and the response; written without a look at the stock checkers' code
    "punctuation:no_comma": lambda a, r: "," not in r,
    "change_case:english_lowercase": lambda a, r: r == r.lower() and "Hund" not in r,
    "change_case:english_capital": lambda a, r: r == r.upper(),
    "length_constraints:number_words": lambda a, r: compares(a["relation"], num_words(r), a["num_words"]),
    "length_constraints:number_sentences": lambda a, r: compares(
        a["relation"], len(re.findall(r'\."?(?:\s|$)', r)), a["num_sentences"]
    ),
    "keywords:existence": lambda a, r: all(word.lower() in r.lower() for word in a["keywords"]),
    "keywords:forbidden_words": lambda a, r: (
        not any(re.search(rf"\b{word}\b", r, re.IGNORECASE) for word in a["forbidden_words"])
    ),
    "keywords:frequency": lambda a, r: compares(a["relation"], r.lower().count(a["keyword"].lower()), a["frequency"]),
    "keywords:letter_frequency": lambda a, r: compares(
        a["let_relation"], r.lower().count(a["letter"].lower()), a["let_frequency"]
    ),
    "detectable_format:number_highlighted_sections": lambda a, r: (
        len(re.findall(r"\*[^\n*]+\*", r)) >= a["num_highlights"]
    ),
    "detectable_format:title": lambda a, r: "<<" in r,
    "detectable_format:number_bullet_lists": lambda a, r: (
        sum(line.startswith("- ") for line in r.split("\n")) == a["num_bullets"]
    ),
    "detectable_content:number_placeholders": lambda a, r: len(re.findall(r"\[\w+\]", r)) >= a["num_placeholders"],
    "detectable_content:postscript": lambda a, r: f"\n{a['postscript_marker']}" in r,
    "detectable_format:json_format": lambda a, r: r.startswith("{"),
    "combination:two_responses": lambda a, r: r.count("******") == 1,
    "combination:repeat_prompt": lambda a, r: r.lower().startswith(a["prompt_to_repeat"].strip().lower()),
    "startend:quotation": lambda a, r: r.startswith('"') and r.endswith('"'),
    "startend:end_checker": lambda a, r: r.strip('"').lower().endswith(a["end_phrase"].strip('"').lower()),
    "language:response_language": lambda a, r: a["language"] == "de" and r == GERMAN,
}


def response(row, index):
    """One that tries to follow the instructions, but for every third prompt."""
    if index % 3 == 1:
        return GERMAN if index % 2 else ""
    asked = dict(zip(row["instruction_id_list"], row["kwargs"], strict=True))
    if "language:response_language" in asked:
        return GERMAN
    if "detectable_format:json_format" in asked:
        return '{"name": "the old dog"}'
    text = "".join(_lines(asked)).strip()
    if "change_case:english_capital" in asked:
        text = text.upper()
    if "change_case:english_lowercase" in asked:
        text = text.lower()
    return f'"{text}"' if "startend:quotation" in asked else text


def _lines(asked):
    def argument(kind, name, default):
        return asked.get(kind, {}).get(name, default)

    yield argument("combination:repeat_prompt", "prompt_to_repeat", "") + "\n"
    if "detectable_format:title" in asked:
        yield "<<the old dog>>\n"
    yield "*a dog* " * argument("detectable_format:number_highlighted_sections", "num_highlights", 0)
    yield "- a dog\n" * argument("detectable_format:number_bullet_lists", "num_bullets", 0)
    yield "[name] " * argument("detectable_content:number_placeholders", "num_placeholders", 0)
    yield " ".join(argument("keywords:existence", "keywords", [])) + " "
    if argument("keywords:frequency", "relation", "") == "at least":
        yield f"{asked['keywords:frequency']['keyword']} " * asked["keywords:frequency"]["frequency"]
    if argument("keywords:letter_frequency", "let_relation", "") == "at least":
        yield f"{asked['keywords:letter_frequency']['letter']} " * asked["keywords:letter_frequency"]["let_frequency"]
    if argument("length_constraints:number_words", "relation", "") == "at least":
        yield f"{SENTENCE} " * (asked["length_constraints:number_words"]["num_words"] // 10)
    num_sentences = argument("length_constraints:number_sentences", "num_sentences", 2)
    is_few = argument("length_constraints:number_sentences", "relation", "") == "less than"
    yield f"{SENTENCE.capitalize()}. " * (1 if is_few else num_sentences)
    if "combination:two_responses" in asked:
        yield f"\n******\n{SENTENCE} again"
    if "detectable_content:postscript" in asked:
        yield f"\n{asked['detectable_content:postscript']['postscript_marker']} {SENTENCE}"
    yield " " + argument("startend:end_checker", "end_phrase", "")


def test_all_prompts(shared_data):
    """Rows with an instruction that is not among the checks get no response, so all of theirs fail."""
    rows = list(map(json.loads, (shared_data / "ifeval" / "input_data.jsonl").read_text().splitlines()))
    answers, expected = {}, []
    for index, row in enumerate(rows):
        letters = "".join(arguments.get("letter", "") for arguments in row["kwargs"])
        is_known = CHECKS.keys() >= set(row["instruction_id_list"]) and not set("#!") & set(letters)
        answers[row["key"]] = answer = response(row, index) if is_known else ""
        pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
        expected.append([bool(answer) and CHECKS[kind](arguments, answer) for kind, arguments in pairs])
    benchmark = PaperBenchmark("ifeval", str(shared_data))
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["key"]])
    assert len(rows) == 541
    for sample, verdicts in zip(samples, expected, strict=True):
        doc = sample["doc"]
        assert sample["inst_level_strict_acc"] == verdicts, (doc["instruction_id_list"], answers[doc["key"]])
    flat = [verdict for verdicts in expected for verdict in verdicts]
    kinds = [kind for row in rows for kind in row["instruction_id_list"]]
    assert results[benchmark.metric] == sum(map(all, expected)) / 541
    assert results["inst_level_strict_acc,none"] == sum(flat) / len(flat)
    assert 0.3 < results[benchmark.metric] < 0.7
    assert {kind for kind, is_followed in zip(kinds, flat, strict=True) if is_followed} == set(CHECKS)


def test_a_letter_that_is_none(shared_data):
    """The stock checker counts a random letter in place of ``#`` and ``!``: the verdicts are the same every time."""
    task = PaperBenchmark("ifeval", str(shared_data)).load()
    docs = [doc for doc in task.eval_docs if doc["key"] in (1122, 1129)]
    verdicts = []
    for seed in range(20):
        random.seed(seed)
        verdicts.append([task.process_results(doc, ["aaaaaa bbbbbb cccccc dddddd eeeeee"]) for doc in docs])
        drawn = random.random()
        random.seed(seed)
        assert random.random() == drawn
    assert len(docs) == 2
    assert all(verdict == verdicts[0] for verdict in verdicts)


@pytest.fixture(scope="module")
def utilities():
    prepare_checkers()
    from lm_eval.tasks.ifeval import instructions_util

    return instructions_util


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("Dr. Smith went to the U.S. in Jan. 1999. He stayed.", 2),
        ("It is 3.5 p.m. now. No! Yes? (Maybe.) Well...", 5),
        ("one. two. three", 3),
        ("A title\n\n- a point\n- another one", 1),
        ("He said: “I will go.” She went.", 2),
        ("e.g. this, i.e. that, etc. and so on.", 4),
    ],
)
def test_sentences(utilities, text, number):
    assert utilities.count_sentences(text) == number


def test_words(utilities):
    assert nltk.word_tokenize("Dr. NO can't go. OK?") == ["Dr.", "NO", "ca", "n't", "go", ".", "OK", "?"]


def test_the_sentence_model_is_that_of_nltk(utilities):
    """The digest was taken of ``punkt_tab/english``, as NLTK's data has it."""
    parameters = utilities._get_sentence_tokenizer()._params
    tables = [
        sorted(parameters.abbrev_types),
        sorted(map(list, parameters.collocations)),
        sorted(parameters.sent_starters),
        sorted(item for item in parameters.ortho_context.items() if item[1]),
    ]
    digest = hashlib.sha256(json.dumps(tables).encode()).hexdigest()
    assert digest == "05d1b12e48957bd1e1d458276076802cde540d5f3c0785efbd5c522ad2703023"


def test_nothing_is_left_of_the_folder(utilities):
    before = list(nltk.data.path)
    prepare_checkers()
    assert nltk.data.path == before
    assert utilities.count_sentences("One. Two.") == 2


def test_nothing_is_printed(capfd, shared_data):
    PaperBenchmark("ifeval", str(shared_data)).load()
    assert capfd.readouterr() == ("", "")


def test_language_is_the_same_at_every_call(utilities):
    import langdetect

    texts = ["no problem amigo", "hallo welt", "ok la di da", "si"]
    first = [langdetect.detect_langs(text) for text in texts]
    assert all(str([langdetect.detect_langs(text) for text in texts]) == str(first) for _ in range(5))


@pytest.mark.parametrize("module", ["punkt", "langdetect"])
def test_a_package_that_is_missing(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TabomError) as error:
        PaperBenchmark("ifeval", str(tmp_path)).load()
    assert f"(import of {module} halted; None in sys.modules); pip install 'tabom[eval]'" in str(error.value)

"""What docs/paper.md says: its arithmetic, and that what it names is there."""

import re

import pytest
import yaml

from tabom.functional.token_statistics import _CHUNK_NUMBERS

LLADA, DREAM = 14e9, 13e9  # operations a position
TRAINING = 5 * 5100 * (120 + 256) * 3 * LLADA / 4e14 / 3600
TRAININGS = 2.0
FOUR = ("gsm8k", "math500", "humaneval", "mbpp")


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs/paper.md").read_text()


@pytest.fixture(scope="module")
def decodings(page):
    """Questions, and hours of LLaDA and Dream, by what is decoded; from the sizes that the page gives."""
    cells = (r"(?:distillation, )?`(\w+)`", *[r"(\d+)"] * 3, r"(\S+)", r"(\d+)", r"(\S+)")
    rows = re.findall("^" + "".join(rf"\| {cell} " for cell in cells) + r"\|$", page, re.MULTILINE)
    found = {}
    for name, questions, prompt, llada, llada_hours, dream, dream_hours in rows:
        hours = [
            int(questions) * int(length) * (int(prompt) + int(length)) * operations / 4e14 / 3600
            for length, operations in ((llada, LLADA), (dream, DREAM))
        ]
        assert [f"{each:.2f}" for each in hours] == [llada_hours, dream_hours], name
        found[name] = (int(questions), *hours)
    return found


def test_hours_of_decoding(decodings):
    assert decodings.keys() == {*FOUR, "ifeval", "prm12k", "ling_coder"}


def test_hours_of_the_tables(page, decodings):
    def total(model, names):
        return sum(decodings[name][model] for name in names)

    def grid(model, names, num):
        return num * (TRAINING + total(model, names))

    five = (*FOUR, "ifeval")
    part = {name: 64 / questions for name, (questions, *_) in decodings.items()}
    expected = {
        "Table 2": [decodings["ling_coder"][model] + TRAININGS + 6 * total(model, five) for model in (1, 2)],
        "Table 3": [decodings["prm12k"][model] + TRAININGS + 6 * total(model, five) for model in (1, 2)],
        "Table 4": [None, 6 * total(2, FOUR) / 2],
        "Table 5": [None, grid(2, FOUR, 4)],
        "Table 6, Fig. 2": [3 * sum(part[name] * decodings[name][model] for name in FOUR) for model in (1, 2)],
        "Table 7": [grid(1, ["gsm8k"], 6), None],
        "Table 9": [None, grid(2, ["gsm8k", "humaneval"], 5)],
    }
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(("| Table", "| Fig"))]
    said = {row[0]: row[3].split(" and ") for row in rows if re.fullmatch(r"[\d.-]+ and [\d.-]+", row[3])}
    assert said.keys() == expected.keys()
    for name, hours in expected.items():
        digits = 1 if name.startswith("Table 6") else 0
        assert said[name] == ["-" if each is None else f"{each:.{digits}f}" for each in hours], name
    assert f"/ 3600 = {TRAINING:.2f} hours on maths" in page


def test_what_it_names_is_there(page, repository):
    named = re.findall(r"(?:configs|sweeps)/[\w./*]+", page)
    assert len(named) > 10
    assert [name for name in named if not [*repository.glob(name)]] == []


def test_sizes_of_the_small_recipe(repository):
    """docs/recipes.md on Qwen3-0.6B: bytes and hours from the shape of its weights."""
    text = (repository / "docs/recipes.md").read_text().partition("## Qwen3-0.6B")[2]
    width, layers, vocabulary, heads, kv_heads, head_dim = 1024, 28, 151_936, 16, 8, 128
    total = 596_049_920  # counted on the meta device by tests/backbones/test_stock.py
    head = width * vocabulary
    adapter = layers * 16 * ((width + heads * head_dim) + (width + kv_heads * head_dim))
    in_blocks, in_head = (round(2 * number / 1e9, 2) * 1e9 for number in (total - head, head))

    def hours(questions, prompt, length, share=1.0):
        operations = (prompt + length) * in_blocks + length / 2 * in_head
        return questions * length * share * operations / 3e13 / 3600

    rows = re.findall(r"^\| (\S+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [name for name, *_ in rows] == ["distillation", "`gsm8k`", "`math500`", "`humaneval`", "`mbpp`", "`ifeval`"]
    computed = [hours(*map(int, sizes)) for _, *sizes, _ in rows]
    assert [said for *_, said in rows] == [f"{each:.2f}" for each in computed]
    training = 5 * 2080 * (90 + 256) * 3 * in_blocks / 3e13 / 3600
    check = hours(100, 90, 256) + hours(100, 90, 256, share=0.5)  # one and two tokens per step
    for phrase in (
        f"{total:,} weights in bfloat16 are {2 * total / 1e9:.2f} GB",
        f"{adapter:,} with gradients and AdamW's two means in float32 are {16 * adapter / 1e9:.2f} GB",
        f"gradient checkpointing keeps, are {8 * 512 * width * 2 * layers / 1e9:.2f} GB",
        f"in pieces of {4 * _CHUNK_NUMBERS['other'] / 1e9:.2f} GB",
        f"32 x 256 positions, {32 * 256 * vocabulary * 2 / 1e9:.2f} GB",
        f"{in_blocks / 1e9:.2f} GFLOP a position, the head {in_head / 1e9:.2f} GFLOP",
        f"= {training:.2f} hours",
        f"decodes 100 prompts twice, {check:.2f} hours",
        f"take {7 * sum(computed[1:]):.1f} hours, the distillation {computed[0]:.1f}",
        f"in {2080 // 32} steps an epoch",
    ):
        assert phrase in text.replace("\n", " "), phrase


def test_hours_of_the_study_on_one_gpu(repository):
    """docs/study.md: the table from the numbers that the pipeline names."""
    text = (repository / "docs/study.md").read_text()
    content = yaml.safe_load((repository / "configs/pipelines/study_qwen3.yaml").read_text())
    given = content["parameters"]
    methods, num_settings = len(given["methods"]), len(given["rates"]) * len(given["seeds"])
    more = {domain["domain"]: len(domain["further"]) for domain in given["domains"]}

    def hours(questions, prompt, length=256, share=1.0):
        operations = (prompt + length) * 0.88e9 + length / 2 * 0.31e9
        return questions * length * share * operations / 3e13 / 3600

    for domain, questions, prompt in (("maths", 7249, 90), ("code", 337, 160)):  # 90 % of MBPP's 374 are trained on
        distillation, share = hours(questions, prompt), sum(1 / number for number in (1, 2, 4))
        training = given["num_steps"] * 32 * (prompt + 256) * 3 * 0.88e9 / 3e13 / 3600
        check, test = (hours(number, prompt, share=share) for number in (50, 500))
        number = (methods + more[domain]) * num_settings
        each = [f"{value:.2f}" for value in (distillation, training, check, test)]
        total = distillation + test + number * (training + check + test)
        assert f"| {domain} | {' | '.join(each)} | {number} | {total:.1f} |" in text
    assert f"replay takes {hours(500, 15, 128):.2f} hours" in text


def test_sizes_of_the_block_models(repository):
    """docs/recipes.md on SDAR-1.7B, and Qwen3-0.6B in blocks: bytes and hours from the shapes of their weights."""
    text = (repository / "docs/recipes.md").read_text().partition("## Block diffusion models")[2]
    layers, vocabulary, heads, kv_heads, head_dim, length = 28, 151_936, 16, 8, 128, 256
    columns = []
    for width, inner, size in ((2048, 6144, 4), (1024, 3072, 32)):
        attention = 2 * width * (heads + kv_heads) * head_dim
        in_blocks = layers * (attention + 3 * width * inner + 2 * head_dim + 2 * width) + width
        head = width * vocabulary
        adapter = layers * 16 * ((width + heads * head_dim) + (width + kv_heads * head_dim))
        per_block, per_head = (round(2 * number / 1e9, 2) * 1e9 for number in (in_blocks, head))

        computed = length * (size + 1)
        decoding = [
            questions * ((prompt + computed) * per_block + computed / 2 * per_head) / 3e13 / 3600
            for questions, prompt in ((7249, 90), (1319, 90), (500, 100))
        ]
        training = 5 * 7249 * 2 * (90 + length) * 3 * per_block / 3e13 / 3600
        columns.append([decoding[0], training, *decoding[1:]])
        memory = [2 * (in_blocks + head) / 1e9, 16 * adapter / 1e9, 8 * 2 * 512 * width * 2 * layers / 1e9]
        if width == 2048:
            phrases = [
                f"{in_blocks + head:,} weights in bfloat16 are {memory[0]:.2f} GB, or {memory[0] + 2 * head / 1e9:.2f}",
                f"{adapter:,} with gradients and AdamW's two means in float32 are {memory[1]:.2f} GB",
                f"the clean one, are {memory[2]:.2f} GB",
                f"SDAR's take {per_block / 1e9:.2f} and {per_head / 1e9:.2f} GFLOP",
            ]
        else:
            phrases += [
                "Qwen3-0.6B: {:.2f}, {:.2f} and {:.2f} GB".format(*memory),
                f"those of Qwen3-0.6B {per_block / 1e9:.2f} and {per_head / 1e9:.2f}",
            ]
    a_token = layers * 2 * kv_heads * head_dim * 2
    phrases.append(f"{a_token:,} bytes a token in both, {32 * 512 * a_token / 1e9:.2f} GB for 32 rows")
    assert [phrase for phrase in phrases if phrase not in text] == []
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert rows == [(f"{sdar:.2f}", f"{qwen:.2f}") for sdar, qwen in zip(*columns, strict=True)]

"""The arithmetic of docs/performance.md."""

import re


def test_shares_of_a_step(repository):
    text = (repository / "docs/performance.md").read_text()
    rows = re.findall(r"^\| (?:LLaDA-8B|Qwen3-0.6B) \| (.* %) \|$", text, re.MULTILINE)
    assert len(rows) == 2
    for row in rows:
        cells = [cell.replace(",", "").removesuffix(" %") for cell in row.split(" | ")]
        weights, width, heads, layers, vocabulary = map(int, cells[:5])
        layer = weights // layers
        assert layer * layers == weights

        def parts(length, targets, *, sizes=(weights, width, heads, layers, vocabulary)):
            all_weights, hidden, of_heads, depth, words = sizes
            each = targets * hidden * words, 2 * length**2 * of_heads * depth, length * all_weights
            return [100 * part / sum(each) for part in each]

        heads_share = [parts(512, targets)[0] for targets in (32, 128)]
        attention = [parts(length, 32)[1] for length in (512, 2048, 8192)]
        assert cells[5:] == [f"{share:.1f}" for share in heads_share + attention]

from pydoc_data.topics import topics

from tabom.tasks import PythonManual


def test_chunks_are_pieces_of_topics_that_are_held_out_whole():
    manual = PythonManual(prompt_length=40, response_length=60)
    seen = {}
    for split in ("train", "validation", "test"):
        for example in manual.examples(split, 100):
            name, start = example.query_id.rsplit(":", 1)
            text = "".join(letter for letter in topics[name].expandtabs(4) if letter == "\n" or " " <= letter <= "~")
            assert example.prompt + example.reference == text[int(start) : int(start) + 100]
            assert (len(example.prompt), len(example.reference)) == (40, 60)
            assert manual.document(example) == name
            seen.setdefault(split, set()).add(name)
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    assert manual.examples("pretrain", 5)[0].query_id.rsplit(":", 1)[0] in topics

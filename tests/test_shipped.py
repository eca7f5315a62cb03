import pytest

from tabom.errors import TabomError
from tabom.shipped import find, names, root


@pytest.mark.parametrize("name", ["demo/tabom", "demo/tabom.yaml", "configs/demo/tabom.yaml", "configs/demo/tabom"])
def test_a_shipped_file_is_found_from_any_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(name, "configs") == root() / "configs/demo/tabom.yaml"


def test_a_file_that_is_there_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "demo" / "tabom"
    own.parent.mkdir()
    own.write_text("run_dir: mine\n")
    assert find("demo/tabom", "configs").resolve() == own


def test_names_are_those_of_the_files():
    assert {"demo/tabom", "llada_prm12k/distill"} <= set(names("configs"))
    assert "margin" in names("sweeps")


@pytest.mark.parametrize(
    ("name", "folder", "hint"),
    [
        ("demo/tabmo", "configs", "; did you mean demo/tabom?"),
        ("here/tabmo.yaml", "configs", "; did you mean here/tabom.yaml?"),
        ("margn", "sweeps", "; did you mean margin?"),
        ("zzz", "sweeps", ""),
    ],
)
def test_a_misspelt_name_gets_the_nearest(name, folder, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tabom.yaml").touch()
    with pytest.raises(TabomError) as error:
        find(name, folder)
    assert str(error.value) == (
        f"{name}: expected a file, or the name of one in {folder} (tabom init DIR copies them){hint}"
    )

"""PNG files that tell which network they are of, and that are whole."""

import os
import pathlib

import pytest
from PIL import Image
from test_predict_files import MARK, files

from jaxseg.marks import mark_of, write_png


def test_marks(tmp_path):
  path, image = tmp_path / "a.png", Image.new("L", (300, 200))
  assert mark_of(path) == ""
  image.save(path)
  assert mark_of(path) == "none"
  write_png(path, image, MARK)
  assert mark_of(path) == MARK and Image.open(path).text == {"jaxseg": MARK}
  path.write_bytes(path.read_bytes()[:-5])
  assert mark_of(path) == "broken"
  path.write_bytes(b"")
  assert mark_of(path) == "broken"
  path.write_bytes(b"x")
  assert mark_of(path) == "none"


@pytest.mark.parametrize("moment", ["write_bytes", "replace"])
def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch, moment):
  path, old = tmp_path / "a.png", Image.new("L", (300, 200), 9)
  write_png(path, old)
  before, write = path.read_bytes(), pathlib.Path.write_bytes

  def half(self, data):
    write(self, bytes(data)[:20])
    raise KeyboardInterrupt

  def never(*arguments):
    raise KeyboardInterrupt

  monkeypatch.setattr(*{"write_bytes": (pathlib.Path, "write_bytes", half),
                        "replace": (os, "replace", never)}[moment])  # fmt: skip
  with pytest.raises(KeyboardInterrupt):
    write_png(path, Image.new("L", (300, 200), 8))
  assert files(tmp_path) == ["a.png"] and path.read_bytes() == before

"""Digests of splits: what changes them, what does not, and how the difference is said."""

import hashlib
import shutil

import pytest
import tiny
from folders import FORMAT, touch

from jaxseg.data import datasets
from jaxseg.data.changes import difference, digest
from jaxseg.data.datasets import Encoded, Subset
from jaxseg.data.folder import open_folder


def folder_digest(root, *names):
  shutil.rmtree(root, ignore_errors=True)
  touch(root, *(f"{kind}/{name}.png" for kind in ("images", "masks") for name in names))
  return digest(open_folder(root, "all", FORMAT)[1])


def test_files_of_a_folder(tmp_path):
  before = folder_digest(tmp_path / "a", "1", "2", "3")
  text = "1.png 0\0" "2.png 0\0" "3.png 0"  # of page 0 each
  names = hashlib.sha256(text.encode()).hexdigest()
  assert before == {"num_examples": 3, "names": names}
  assert difference(before, folder_digest(tmp_path / "moved", "3", "2", "1")) == ""
  now = folder_digest(tmp_path / "a", "1", "2", "3", "4")
  assert difference(before, now) == "3 examples then, 4 now"
  now = folder_digest(tmp_path / "a", "1", "3")
  assert difference(before, now) == "3 examples then, 2 now"
  now = folder_digest(tmp_path / "a", "1", "2", "4")
  assert difference(before, now).startswith("3 examples then and now, but of other names")


def test_a_subset_and_another_order():
  _, source = tiny.load_photos("train", "", 32, 0)
  whole = Subset(source, range(20))
  assert difference(digest(source), digest(whole)) == ""
  shuffled = Subset(source, [*range(1, 20), 0])
  assert "another order" in difference(digest(source), digest(shuffled))
  assert digest(Subset(whole, range(5))) == digest(Subset(source, range(5)))


def test_without_names_the_number_counts():
  _, cells = datasets.load("cells", "train", image_size=32)
  assert digest(cells) == {"num_examples": len(cells), "names": ""}
  assert digest(Subset(cells, [3, 4])) == {"num_examples": 2, "names": ""}
  assert difference(digest(cells), digest(Subset(cells, [3, 4]))) == "512 examples then, 2 now"
  assert difference(digest(Subset(cells, [3, 4])), digest(Subset(cells, [4, 5]))) == ""


@pytest.mark.parametrize("before", [{}, {"num_examples": 2}, {"num_examples": 2, "names": ""}])
def test_what_an_earlier_version_did_not_save(before):
  assert difference(before, {"num_examples": 2, "names": "x"}) == ""


def test_names_that_are_not_unicode():
  """As a file system may have them."""
  records = [{"name": "\udcff.png"}, {"name": "a.png"}]
  found = digest(Encoded(records, FORMAT, None))
  assert found["names"] == hashlib.sha256(b"\xff.png 0\0a.png 0").hexdigest()

"""Which files of a folder are images, how outputs are called, and who reads which."""

import os

import pytest
from folders import touch
from tiny import error_of

from jaxseg import UserError
from jaxseg.listing import Image, Listing, check_paths, describe, output_stems


def read(path, output="/nowhere", *patterns, number=0, count=1):
  """Relative paths of the images."""
  listing = Listing(path, output, *patterns)
  return [
    str(image.path.relative_to(listing.root)) for image in listing.share(number, count)
  ]


def test_images_in_order(tmp_path):
  touch(tmp_path, "b.png", "a.JPG", "c.TiFf", "notes.txt", "a.npz", "png", "b/c/x.webp", "b/a.jp2",
        "._b.png", ".DS_Store", ".hidden/y.png")  # fmt: skip
  (tmp_path / "folder.png").mkdir()
  os.symlink("nothing", tmp_path / "lost.png")
  os.mkfifo(tmp_path / "pipe.png")
  assert read(tmp_path) == ["a.JPG", "b.png", "c.TiFf", "b/a.jp2", "b/c/x.webp"]
  listing = Listing(tmp_path, "/nowhere")
  assert listing.total == 5
  assert listing.left_out == {
    "hidden": 3, ".txt": 1, ".npz": 1, "without suffix": 1, "that are no files, or links to none": 2
  }  # fmt: skip
  text = describe(listing.left_out)
  assert text.startswith("not read: 3 hidden, 2 that are no files") and "1 .npz" in text
  assert read(tmp_path / "notes.txt") == ["notes.txt"]  # asked for by name
  assert describe(Listing(tmp_path / "b.png", "/nowhere").left_out) == ""


def test_kinds_that_are_not_read_are_few(tmp_path):
  touch(tmp_path, "a.png", *(f"x.{i}" for i in range(300)), "x.7z", "y.7z")
  left_out = Listing(tmp_path, "/nowhere").left_out
  assert len(left_out) <= 101 and left_out.total() == 302
  text = describe(left_out)
  numbers = [int(part.split()[0]) for part in text.removeprefix("not read: ").split(", ")]
  assert len(numbers) == 11 and sum(numbers) == 302


def test_a_link_that_leads_round_is_followed_once(tmp_path):
  touch(tmp_path, "a/x.png", "b/y.png")
  os.symlink(tmp_path, tmp_path / "a" / "back")
  os.symlink(tmp_path / "b", tmp_path / "a" / "other")
  os.symlink(tmp_path / "a", tmp_path / "b" / "other")
  found = read(tmp_path)
  assert {"a/x.png", "b/y.png", "a/other/y.png"} <= set(found) and len(found) < 10


def test_a_folder_without_rights_is_counted(tmp_path, monkeypatch):
  touch(tmp_path, "a.png", "b/c.png")
  scandir = os.scandir

  def refuse(path):  # as chmod does, for root too
    if path == str(tmp_path / "b"):
      raise PermissionError(13, "Permission denied", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  text = describe(Listing(tmp_path, "/nowhere").left_out)
  assert text == "not read: 1 folders that cannot be listed (Permission denied)"
  assert "rights" in error_of(Listing, tmp_path / "b", "/nowhere")


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_processes_share_the_images(tmp_path, count):
  names = [f"{folder}{i}.png" for folder in ("", "a/", "b/c/") for i in range(5)]
  touch(tmp_path, *names)
  shares = [read(tmp_path, number=number, count=count) for number in range(count)]
  assert sorted(sum(shares, [])) == sorted(names)  # each once
  assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_seen_tells_whether_processes_saw_the_same(tmp_path):
  touch(tmp_path, "a.png", "b.png")
  first, second = Listing(tmp_path, "/nowhere"), Listing(tmp_path, "/nowhere")
  list(first.share(0, 2))
  list(second.share(1, 2))
  assert first.seen == second.seen != (0, 0)
  (tmp_path / "a.png").rename(tmp_path / "c.png")
  list(second.share(1, 2))
  assert first.seen != second.seen


@pytest.mark.parametrize(
  "names, expected",
  [
    (["a.jpg", "b.png"], ["a", "b"]),
    (["a.jpg", "a.png", "b.JPG"], ["a.jpg", "a.png", "b"]),
    (["a.b.jpg", "a.jpg"], ["a.b", "a"]),
    (["a.jpg", "a.jpg.bmp", "a.png"], ["a.jpg", "a.jpg.bmp", "a.png"]),
    (["A.jpg", "a.png"], ["A.jpg", "a.png"]),  # one file on macOS
    (["a.jpg", "a.jpg.bmp"], ["a", "a.jpg.bmp"]),
  ],
)
def test_output_stems(names, expected):
  assert output_stems(names) == expected
  assert len({stem.lower() for stem in expected}) == len(expected)


def test_outputs_of_pages(tmp_path):
  touch(tmp_path, "b/a.tif", "b/a_001.jpg", "b/c.tif")
  stack, other, alone = Listing(tmp_path, "/nowhere").share(0, 1)
  assert alone.outputs(1) == ["b/c.png"] and other.outputs(1) == ["b/a_001.png"]
  assert alone.outputs(2) == ["b/c_000.png", "b/c_001.png"]
  assert stack.outputs(1) == ["b/a.png"]
  assert stack.outputs(2) == ["b/a.tif_000.png", "b/a.tif_001.png"]
  touch(tmp_path, "b/a.tif_000.png")
  stack, *_ = Listing(tmp_path, "/nowhere").share(0, 1)
  assert "b/a.tif" in error_of(stack.outputs, 2) and isinstance(stack, Image)


def test_masks_beside_images_are_left_out(tmp_path):
  names = ["a.jpg", "a_mask.png", "b/c.jpg", "b/c_mask.png", "other.bmp"]
  touch(tmp_path, *names)
  patterns = "{name}.jpg", "{name}_mask.png"
  assert read(tmp_path, "/nowhere", *patterns) == ["a.jpg", "other.bmp", "b/c.jpg"]
  left_out = Listing(tmp_path, "/nowhere", *patterns).left_out
  assert describe(left_out) == "not read: 2 masks, which fit config.data.masks"
  assert len(read(tmp_path)) == 5
  # What fits both is a mask, unless all images do.
  patterns = "{name}.png", "{name}_mask.png"
  touch(tmp_path, "a.png")
  assert "a_mask.png" not in read(tmp_path, "/nowhere", *patterns)
  assert read(tmp_path / "a_mask.png", "/nowhere", *patterns) == ["a_mask.png"]
  only = tmp_path / "masks"
  touch(only, "a_mask.png", "b_mask.png")
  assert read(only, "/nowhere", *patterns) == ["a_mask.png", "b_mask.png"]
  assert read(only, "/nowhere", "{name}.jpg", patterns[1]) == ["a_mask.png", "b_mask.png"]


def test_nothing_to_predict(tmp_path):
  touch(tmp_path, "in/notes.txt", "in/.hidden/a.png")
  message = error_of(check_paths, tmp_path / "in", tmp_path / "out")
  assert f"no images in {tmp_path / 'in'}" in message and ".png" in message
  message = error_of(check_paths, tmp_path / "typo", tmp_path / "out")
  assert str(tmp_path / "typo") in message and "--input" in message


@pytest.mark.parametrize(
  "output",
  ["x/in", "x/in/out", "x/in/sub", "x/in/../in", "x/link", "x/link/new", "x", "elsewhere/.."],
)
def test_outputs_among_the_images_are_refused(tmp_path, output):
  """x/in/in would get outputs of x/in, if these were written to x."""
  touch(tmp_path, "x/in/a.png", "x/in/sub/b.png", "x/in/in/c.png", "elsewhere/y")
  os.symlink(tmp_path / "x" / "in", tmp_path / "x" / "link")
  if output == "elsewhere/..":
    (tmp_path / "x" / "in").rename(tmp_path / "in")
    with pytest.raises(UserError, match="--output"):
      check_paths(tmp_path / "in", tmp_path / output)
  else:
    with pytest.raises(UserError, match="--output"):
      check_paths(tmp_path / "x" / "in", tmp_path / output)


def test_outputs_elsewhere_are_not(tmp_path):
  touch(tmp_path, "x/in/a.png", "x/in/sub/b.png")
  for output in ("x", "x/out", "x/in2", "y", "."):
    check_paths(tmp_path / "x" / "in", tmp_path / output)
  for output in ("x", "x/in/labels", "x/in/overlays"):
    check_paths(tmp_path / "x/in/a.png", tmp_path / output)
  assert "--output" in error_of(check_paths, tmp_path / "x/in/a.png", tmp_path / "x" / "in")


def test_overlays_among_the_images_are_refused(tmp_path):
  touch(tmp_path, "overlays/a.png", "in/overlays/b.png", "in/c.png")
  assert "--output" in error_of(check_paths, tmp_path / "overlays", tmp_path)
  assert "--output" in error_of(check_paths, tmp_path / "overlays" / "a.png", tmp_path)
  assert "rename" in error_of(check_paths, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("target", ["out", "out/sub", "."])
def test_a_link_to_the_output_is_refused(tmp_path, target):
  touch(tmp_path, "x/out/sub/b.png", "in/c.png")
  os.symlink(tmp_path / "x" / target, tmp_path / "in" / "link")
  assert "link" in error_of(read, tmp_path / "in", tmp_path / "x" / "out")
  if target != ".":
    assert len(read(tmp_path / "in", tmp_path / "y")) == 2

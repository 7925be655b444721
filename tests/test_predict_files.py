"""Image files in, label maps out."""

import errno
import os
import pathlib
import types
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image
from test_predict import images_of
from test_zarr_files import write_zarr

from jaxseg import DataWarning, UserError, predict_files
from jaxseg.data.decode import DatasetInfo
from jaxseg.listing import Listing
from jaxseg.predict_files import Outcome, mark_of, write_legend, write_png

RGB = DatasetInfo(("red", "green", "blue"), ((250, 0, 0), (0, 240, 0), (0, 0, 230)), channels=3)
GREY = DatasetInfo(("dark", "bright"), ((0, 0, 0), (255, 255, 255)), 1, value_range=(0, 1000))
MARK = "0123456789abcdef"


def predict(examples, reduce, progress):
  """As if the image were the probabilities."""
  for example in examples:
    image = example["image"]
    dark = (500 if image.dtype == np.uint16 else 127) * np.ones_like(image)
    probs = image if image.shape[-1] > 1 else np.concatenate([dark, image], axis=-1)
    yield example, reduce(probs.astype(np.float32))


def run(folder, output, info=RGB, predict=predict, **options):
  """(Outcome, lines) of predicting a folder."""
  outcome, lines = Outcome(), []
  images = Listing(folder, output).share(0, 1)
  options = {"mark": MARK, **options}
  predict_files.predict_files(predict, images, output, info, outcome, say=lines.append, **options)
  return outcome, lines


def files(folder):
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path):
  """Images of five sizes and kinds; {name without suffix: its pixels as RGB}."""
  path = tmp_path / "input"
  path.mkdir()
  y, x = np.mgrid[:57, :33]
  smooth = np.stack([7 * x, 4 * y, 200 - 3 * x], -1).astype(np.uint8)
  grey, alpha, palette, wide = images_of([(20, 31), (64, 48), (17, 17), (9, 64)])
  Image.fromarray(smooth).save(path / "photo.jpg", quality=95)
  Image.fromarray(grey[..., 0]).save(path / "grey.png")
  transparency = np.arange(64 * 48).astype(np.uint8).reshape(64, 48)
  Image.fromarray(np.dstack([alpha, transparency])).save(path / "alpha.PNG")
  Image.fromarray(palette).quantize(16).save(path / "palette.png")
  Image.fromarray(wide).save(path / "wide.BMP")
  (path / "notes.txt").write_text("no image")
  return path


def test_predict_files(folder, tmp_path):
  output = tmp_path / "some" / "output"
  outcome, lines = run(folder, output)
  assert (outcome.written, outcome.skipped, outcome.failed, lines) == (5, 0, 0, [])
  names = ["alpha.png", "grey.png", "palette.png", "photo.png", "wide.png"]
  assert files(output) == sorted([*names, *(f"overlays/{name}" for name in names)])
  sizes = set()
  for image in Listing(folder, output).share(0, 1):
    picture = Image.open(image.path).convert("RGB")
    labels = Image.open(output / f"{image.path.stem}.png")
    assert (labels.mode, labels.size) == ("P", picture.size)
    # The largest of red, green and blue; the first of them where they are equal.
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(picture).argmax(-1))
    colours = np.asarray(labels.convert("RGB"))
    np.testing.assert_array_equal(colours, np.array(RGB.palette)[np.asarray(labels)])
    overlay = Image.open(output / "overlays" / f"{image.path.stem}.png")
    assert (overlay.mode, overlay.size) == ("RGB", picture.size)
    sizes.add(picture.size)
  assert len(sizes) == 5 and (33, 57) in sizes


def test_predict_one_file(folder, tmp_path):
  run(folder / "photo.jpg", tmp_path / "out")
  assert files(tmp_path / "out") == ["overlays/photo.png", "photo.png"]


def test_pages_become_files(tmp_path):
  pages = np.zeros((3, 6, 8), np.uint16)
  for i, page in enumerate(pages):
    page[:, 2 * i :] = 800  # of 1000
  (tmp_path / "in").mkdir()
  images = [Image.fromarray(page) for page in pages]
  images[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=images[1:])
  images[1].save(tmp_path / "in" / "single.tiff")
  run(tmp_path / "in", tmp_path / "out", GREY)
  expected = {"single": pages[1], **{f"stack_00{i}": page for i, page in enumerate(pages)}}
  assert files(tmp_path / "out" / "overlays") == sorted(f"{name}.png" for name in expected)
  for name, page in expected.items():
    labels = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
    np.testing.assert_array_equal(labels, page > 500)


def test_the_bar_counts_what_is_done(folder, tmp_path):
  """Not what has been read ahead; pages count one by one."""
  run(folder / "grey.png", tmp_path / "out")  # is there already
  grey = Image.new("RGB", (16, 16))
  grey.save(folder / "stack.tif", save_all=True, append_images=[grey])
  (folder / "bad.png").touch()
  bar, seen = types.SimpleNamespace(n=0, total=7), []

  def update():
    bar.n += 1

  def read_ahead(examples, reduce, progress):
    for example, labels in predict(list(examples), reduce, progress):
      seen.append(bar.n)
      yield example, labels

  bar.update = update
  outcome, _ = run(folder, tmp_path / "out", predict=read_ahead, bar=bar)
  assert (outcome.written, outcome.skipped, outcome.failed) == (6, 1, 1)
  assert seen == [2, 3, 4, 5, 6, 7] and (bar.n, bar.total) == (8, 8)


def test_sub_folders(tmp_path):
  (tmp_path / "in" / "b" / "c").mkdir(parents=True)
  picture = Image.fromarray(images_of([(8, 6)])[0])
  for name in ("a.jfif", "b/a.jp2", "b/c/x.png", "b/x.TIFF"):
    picture.save(tmp_path / "in" / name, "JPEG" if name.endswith("jfif") else None)
  run(tmp_path / "in", tmp_path / "out")
  names = {"a.png", "b/a.png", "b/c/x.png", "b/x.png"}
  assert set(files(tmp_path / "out")) == names | {f"overlays/{name}" for name in names}
  expected = np.asarray(picture).argmax(-1)
  np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/b/c/x.png")), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_the_others_are_predicted_when_files_are_bad(folder, tmp_path):
  data = (folder / "photo.jpg").read_bytes()
  (folder / "half.jpg").write_bytes(data[: len(data) // 2])
  (folder / "empty.png").touch()
  image = Image.new("L", (64, 64))
  image.save(folder / "stack.tif", save_all=True, append_images=[image])
  (folder / "stack.tif").write_bytes((folder / "stack.tif").read_bytes()[:1000])
  outcome, lines = run(folder, tmp_path / "out")
  assert (outcome.written, outcome.failed) == (5, 3)
  assert [pathlib.Path(name).name for name in outcome.names] == [
    "empty.png", "half.jpg", "stack.tif"
  ]  # fmt: skip
  for line, name in zip(lines, ("empty.png", "half.jpg", "stack.tif"), strict=True):
    assert line.startswith(f"failed: {folder / name}") and line.count(name) == 1, line
  assert outcome.reason == lines[0].removeprefix("failed: ")


def test_the_others_are_predicted_when_the_network_cannot_take_an_image(folder, tmp_path):
  """Here, those of 9 and of 17 rows; it takes three images at once."""

  def picky(examples, reduce, progress):
    batch = []
    for example in [*examples, None]:
      batch += [example] if example else []
      if batch and (len(batch) == 3 or not example):
        if any(x["image"].shape[0] in (9, 17) for x in batch):
          raise MemoryError("out of memory\nat some place")
        yield from predict(batch, reduce, progress)
        batch = []

  def reluctant(examples, reduce, progress):
    raise UserError("nothing goes")
    yield

  outcome, lines = run(folder, tmp_path / "out", predict=picky)
  assert (outcome.written, outcome.failed) == (3, 2)
  names = "palette.png", "wide.BMP"
  assert lines == [f"failed: {folder / name}: out of memory" for name in names]
  with pytest.raises(UserError, match="nothing goes"):  # no file's fault
    run(folder, tmp_path / "other", predict=reluctant)


def test_failures_are_named_up_to_a_number(tmp_path):
  (tmp_path / "in").mkdir()
  for i in range(250):
    (tmp_path / "in" / f"{i}.png").touch()
  outcome, lines = run(tmp_path / "in", tmp_path / "out")
  assert (outcome.failed, len(outcome.names), len(lines)) == (250, 10, 101)


def test_what_is_there_is_not_made_again(folder, tmp_path):
  output, read = tmp_path / "out", []

  def watched(examples, **options):
    for example, labels in predict(examples, **options):
      read.append(example["page"].name)
      yield example, labels

  run(folder, output)
  before = {name: (output / name).stat().st_mtime_ns for name in files(output)}
  outcome, _ = run(folder, output, predict=watched)
  assert (outcome.written, outcome.skipped, read) == (0, 5, [])
  assert {name: (output / name).stat().st_mtime_ns for name in files(output)} == before
  # What is incomplete is.
  (output / "wide.png").unlink()
  (output / "overlays" / "grey.png").unlink()
  (output / "photo.png").write_bytes((output / "photo.png").read_bytes()[:-1])
  (output / "palette.png").write_bytes(b"")
  outcome, _ = run(folder, output, predict=watched)
  assert (outcome.written, outcome.skipped, outcome.replaced, outcome.kept) == (4, 1, 0, 0)
  assert sorted(read) == ["grey.png", "palette.png", "photo.png", "wide.png"]
  # All is, on request.
  outcome, _ = run(folder, output, overwrite=True)
  assert (outcome.written, outcome.skipped, outcome.replaced) == (5, 0, 0)


def test_label_maps_of_another_network_are_replaced_and_other_files_kept(folder, tmp_path):
  output = tmp_path / "out"
  run(folder, output, mark="of another       ")
  by_hand = Image.fromarray(np.full((20, 31), 7, np.uint8))
  by_hand.save(output / "grey.png")
  (output / "overlays" / "grey.png").unlink()
  outcome, _ = run(folder, output)
  assert (outcome.written, outcome.replaced, outcome.kept) == (4, 4, 1)
  assert np.all(np.asarray(Image.open(output / "grey.png")) == 7)
  outcome, _ = run(folder, output, overwrite=True)
  assert outcome.written == 5 and mark_of(output / "grey.png") == MARK


def test_overlays_and_legends_of_somebody_else_are_kept(folder, tmp_path):
  output, mine = tmp_path / "out", Image.new("RGB", (5, 4), (1, 2, 3))
  (output / "overlays").mkdir(parents=True)
  for name in "grey.png", "legend.png":
    mine.save(output / "overlays" / name)
  outcome, _ = run(folder, output)
  write_legend(output / "overlays", RGB, ())
  assert (outcome.written, outcome.kept, outcome.overlays) == (5, 0, 1)
  outcome, _ = run(folder, output, mark="of another netwo")
  assert (outcome.written, outcome.replaced, outcome.overlays) == (5, 5, 1)
  for name in "grey.png", "legend.png":
    assert Image.open(output / "overlays" / name).size == (5, 4)
  names = "legend.png", "legend_of_classes.png"
  assert {x for x in files(output / "overlays") if "legend" in x} == {*names}
  write_legend(output / "overlays", RGB, ())
  assert {x for x in files(output / "overlays") if "legend" in x} == {*names}
  outcome, _ = run(folder, output, overwrite=True)
  write_legend(output / "overlays", RGB, (), overwrite=True)
  assert (outcome.written, outcome.overlays) == (5, 0)
  assert Image.open(output / "overlays" / "grey.png").size == (31, 20)
  assert Image.open(output / "overlays" / "legend.png").size != (5, 4)


def test_an_overlay_of_another_network_is_made_again(folder, tmp_path):
  """As after a stop between overlay and label map, and another start with the network before."""
  output = tmp_path / "out"
  run(folder, output)
  before = (output / "overlays" / "grey.png").read_bytes()
  write_png(output / "overlays" / "grey.png", Image.new("RGB", (31, 20)), "of another netwo")
  outcome, _ = run(folder, output)
  assert (outcome.written, outcome.skipped) == (1, 4)
  assert (output / "overlays" / "grey.png").read_bytes() == before


def test_notes_of_small_zarr_images(tmp_path):
  write_zarr(tmp_path / "in" / "a.zarr", np.zeros((9, 8, 5), np.uint8), "zarr3")
  with pytest.warns(DataWarning, match="3 of 5 bands are used"):
    outcome, _ = run(tmp_path / "in", tmp_path / "out")
  assert outcome.written == 1


def test_what_a_killed_process_left_is_hidden_and_overwritten(tmp_path, monkeypatch):
  image = Image.new("L", (30, 20))
  monkeypatch.setattr(os, "replace", lambda *_: None)  # as if it died before
  write_png(tmp_path / f"{'x' * 251}.png", image)  # a name cannot be longer
  monkeypatch.undo()
  (left,) = files(tmp_path)
  assert left[0] == "." and Listing(tmp_path, "/nowhere").total == 0
  write_png(tmp_path / f"{'x' * 251}.png", image)
  assert files(tmp_path) == [f"{'x' * 251}.png"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_errors_of_the_disk(folder, tmp_path, monkeypatch, number):
  """A full disk ends it; what concerns one file does not."""
  write = pathlib.Path.write_bytes
  target = zlib.crc32(b"palette.png")

  def fail(self, data):
    if f"{target:08x}" in self.name:
      write(self, bytes(data)[:20])
      raise OSError(number, os.strerror(number), str(self))
    return write(self, data)

  monkeypatch.setattr(pathlib.Path, "write_bytes", fail)
  if number == errno.ENOSPC:
    with pytest.raises(OSError, match="No space"):
      run(folder, tmp_path / "out")
  else:
    outcome, (line,) = run(folder, tmp_path / "out")
    assert (outcome.written, outcome.failed) == (4, 1) and "palette.png: Permission" in line
  found = files(tmp_path / "out")
  assert "palette.png" not in found and not [name for name in found if "/." in f"/{name}"]
  for name in found:
    Image.open(tmp_path / "out" / name).load()


def test_an_image_called_legend_keeps_its_overlay(tmp_path):
  names = ["legend.png", "legend_of_classes.jpg"]
  (tmp_path / "in").mkdir()
  for name in names:
    Image.fromarray(np.full((6, 8), 99, np.uint8)).save(tmp_path / "in" / name)
  overlays = tmp_path / "out" / "overlays"
  overlays.mkdir(parents=True)
  write_legend(overlays, GREY, Listing(tmp_path / "in", tmp_path / "out").legends)
  run(tmp_path / "in", tmp_path / "out", GREY)
  assert len(files(overlays)) == 3
  for name in names:
    assert Image.open(overlays / name.replace("jpg", "png")).size == (8, 6)
  (overlays / "other").mkdir()  # where Legend.png is the same file as legend.png
  write_legend(overlays / "other", GREY, ["Legend.png"])
  assert files(overlays / "other") == ["legend_of_classes.png"]


def test_an_overlay_without_memory_is_that_image_alone(folder, tmp_path, monkeypatch):
  def to_picture(image, info):
    if image.shape[0] == 17:
      raise MemoryError("out of memory")
    return image

  def together(examples, reduce, progress):
    yield from predict(list(examples), reduce, progress)

  monkeypatch.setattr(predict_files, "to_picture", to_picture)
  outcome, lines = run(folder, tmp_path / "out", predict=together)
  assert (outcome.written, outcome.failed) == (4, 1)
  assert lines == [f"failed: {folder / 'palette.png'}: out of memory"]


def test_a_remedy_that_a_trained_network_cannot_follow_is_not_offered(tmp_path):
  (tmp_path / "in").mkdir()
  tifffile.imwrite(tmp_path / "in" / "a.tif", np.zeros((4, 5, 6), np.uint8),
                   photometric="minisblack", planarconfig="contig")  # fmt: skip
  with pytest.warns(DataWarning, match="3 of 6 bands are used .said once") as said:
    run(tmp_path / "in", tmp_path / "out")
  assert "channels" not in str(said[0].message)

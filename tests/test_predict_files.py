"""Folders of files in, label maps out."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import error_of

from jaxseg import DataWarning
from jaxseg.data.decode import DatasetInfo
from jaxseg.predict_files import (
  left_out,
  list_images,
  list_pages,
  output_names,
  predict_files,
  without_masks,
)

RGB = DatasetInfo(("red", "green", "blue"), ((250, 0, 0), (0, 240, 0), (0, 0, 230)), channels=3)
GREY = DatasetInfo(("dark", "bright"), ((0, 0, 0), (255, 255, 255)), 1, value_range=(0, 1000))


def predict(examples, reduce, progress):
  """As if the image were the probabilities."""
  for example in examples:
    image = example["image"]
    dark = (500 if image.dtype == np.uint16 else 127) * np.ones_like(image)
    probs = image if image.shape[-1] > 1 else np.concatenate([dark, image], axis=-1)
    yield example, reduce(probs.astype(np.float32))


def images_of(sizes, seed=0):
  rng = np.random.default_rng(seed)
  return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_list_images(tmp_path):
  names = ["b.png", "a.JPG", "c.TiFf", "d.jpeg"]
  for name in (*names, "notes.txt", "a.npz", "png"):
    (tmp_path / name).touch()
  (tmp_path / "folder.png").mkdir()
  assert list_images(str(tmp_path)) == sorted(tmp_path / name for name in names)
  assert list_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]  # asked for by name


def test_nothing_to_predict(tmp_path):
  (tmp_path / "notes.txt").touch()
  message = error_of(list_images, tmp_path)
  assert str(tmp_path) in message and ".png" in message
  message = error_of(list_images, tmp_path / "typo")
  assert str(tmp_path / "typo") in message and "--input" in message


@pytest.mark.parametrize(
  "files, expected",
  [
    (["a.jpg", "b.png"], ["a.png", "b.png"]),
    (["a.jpg", "a.png", "b.JPG"], ["a.jpg.png", "a.png.png", "b.png"]),
    (["a.b.jpg", "a.jpg"], ["a.b.png", "a.png"]),
    (["a.jpg", "a.jpg.bmp", "a.png"], ["a.jpg.png", "a.jpg.bmp.png", "a.png.png"]),
  ],
)
def test_output_names(tmp_path, files, expected):
  assert output_names([(tmp_path / name, 0, "") for name in files], tmp_path) == expected
  assert len(set(expected)) == len(expected)


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
  files = list_images(folder)
  shown = []

  def progress(iterable, **options):
    shown.append(options)
    return iterable

  predict_files(predict, files, folder, output, RGB, progress)
  assert shown == [{"total": 5, "unit": "image"}]
  names = ["alpha.png", "grey.png", "palette.png", "photo.png", "wide.png"]
  assert sorted(p.name for p in output.iterdir()) == sorted([*names, "overlays"])
  assert sorted(p.name for p in (output / "overlays").iterdir()) == sorted([*names, "legend.png"])
  sizes = set()
  for file in files:
    picture = Image.open(file).convert("RGB")
    labels = Image.open(output / f"{file.stem}.png")
    assert (labels.mode, labels.size) == ("P", picture.size)
    # The largest of red, green and blue; the first of them where they are equal.
    np.testing.assert_array_equal(np.asarray(labels), np.asarray(picture).argmax(-1))
    colours = np.asarray(labels.convert("RGB"))
    np.testing.assert_array_equal(colours, np.array(RGB.palette)[np.asarray(labels)])
    overlay = Image.open(output / "overlays" / f"{file.stem}.png")
    assert (overlay.mode, overlay.size) == ("RGB", picture.size)
    sizes.add(picture.size)
  assert len(sizes) == 5 and (33, 57) in sizes


def test_predict_one_file(folder, tmp_path):
  predict_files(predict, list_images(folder / "photo.jpg"), folder, tmp_path / "out", RGB)
  assert Image.open(tmp_path / "out" / "photo.png").size == (33, 57)


def test_pages_become_files(tmp_path):
  pages = np.zeros((3, 6, 8), np.uint16)
  for i, page in enumerate(pages):
    page[:, 2 * i :] = 800  # of 1000
  images = [Image.fromarray(page) for page in pages]
  images[0].save(tmp_path / "stack.tif", save_all=True, append_images=images[1:])
  images[1].save(tmp_path / "single.tiff")
  predict_files(predict, list_images(tmp_path), tmp_path, tmp_path / "out", GREY)
  expected = {"single": pages[1], **{f"stack_00{i}": page for i, page in enumerate(pages)}}
  assert sorted(p.stem for p in (tmp_path / "out").glob("*.png")) == sorted(expected)
  assert sorted(p.stem for p in (tmp_path / "out" / "overlays").iterdir()) == sorted(
    [*expected, "legend"]
  )
  for name, page in expected.items():
    labels = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
    np.testing.assert_array_equal(labels, page > 500)


def test_names_of_pages(tmp_path):
  image = Image.new("L", (4, 4))
  image.save(tmp_path / "a.tif", save_all=True, append_images=[image])
  for name in ("a.png", "a_001.jpg", "b.jpg"):
    image.save(tmp_path / name)
  pages = list_pages(list_images(tmp_path))
  assert [(file.name, page) for file, page, _ in pages] == [
    ("a.png", 0), ("a.tif", 0), ("a.tif", 1), ("a_001.jpg", 0), ("b.jpg", 0)
  ]  # fmt: skip
  names = ["a.png", "a_000.png", "a.tif_001.png", "a_001.jpg.png", "b.png"]
  assert output_names(pages, tmp_path) == names


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_stack(tmp_path):
  image = Image.new("L", (64, 64))
  image.save(tmp_path / "a.tif", save_all=True, append_images=[image])
  (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:1000])
  message = error_of(predict_files, predict, list_images(tmp_path), tmp_path, tmp_path / "out", RGB)
  assert message.startswith(f"{tmp_path / 'a.tif'}")


def test_an_image_that_cannot_be_decoded(folder, tmp_path):
  data = (folder / "photo.jpg").read_bytes()
  (folder / "half.jpg").write_bytes(data[: len(data) // 2])
  message = error_of(predict_files, predict, list_images(folder), folder, tmp_path / "out", RGB)
  assert message.startswith(f"{folder / 'half.jpg'}: cannot be decoded")


def test_output_that_cannot_be_written(folder, tmp_path):
  (tmp_path / "out").touch()  # stops root too, unlike permissions
  message = error_of(predict_files, predict, list_images(folder), folder, tmp_path / "out", RGB)
  assert str(tmp_path / "out") in message and "--output" in message


def test_inputs_are_not_overwritten(folder):
  before = {file.name: file.read_bytes() for file in folder.iterdir()}
  outside = folder / ".." / folder.name
  message = error_of(predict_files, predict, list_images(folder), folder, outside, RGB)
  assert "grey.png" in message and "--output" in message
  # Nor are those that lie where the overlays go.
  inside = folder.rename(folder.parent / "overlays")
  message = error_of(predict_files, predict, list_images(inside), inside, inside.parent, RGB)
  assert "grey.png" in message and "--output" in message
  assert {file.name: file.read_bytes() for file in inside.iterdir()} == before


def test_an_image_called_legend_keeps_its_overlay(tmp_path):
  Image.fromarray(np.full((6, 8), 99, np.uint8)).save(tmp_path / "legend.png")
  predict_files(predict, list_images(tmp_path), tmp_path, tmp_path / "out", GREY)
  overlays = tmp_path / "out" / "overlays"
  assert sorted(p.name for p in overlays.iterdir()) == ["legend.png", "legend_of_classes.png"]
  assert Image.open(overlays / "legend.png").size == (8, 6)


def test_what_is_no_image_is_named(tmp_path):
  Image.fromarray(np.zeros((6, 8), np.uint8)).save(tmp_path / "a.png")
  files = list_images(tmp_path)
  assert left_out(tmp_path, files) == left_out(files[0], files) == ""
  (tmp_path / "notes.txt").touch()
  (tmp_path / "more").mkdir()
  (tmp_path / "._a.png").touch()
  (tmp_path / "more" / "b.txt").touch()
  assert list_images(tmp_path) == files
  assert left_out(tmp_path, files).endswith(": more/b.txt, notes.txt")


def test_sub_folders_and_all_suffixes(tmp_path):
  """The output has the sub-folders of the input, and is not read itself."""
  (tmp_path / "b" / "c").mkdir(parents=True)
  (tmp_path / ".hidden").mkdir()
  picture = Image.fromarray(images_of([(8, 6)])[0])
  for name in ("a.jfif", "b/a.jp2", "b/c/x.png", ".hidden/y.png", "b/x.TIFF"):
    picture.save(tmp_path / name, "JPEG" if name.endswith("jfif") else None)
  output = tmp_path / "out"
  for _ in range(2):
    files = list_images(tmp_path, output)
    predict_files(predict, files, tmp_path, output, RGB)
    found = {str(p.relative_to(output)) for p in output.rglob("*.png")}
    names = {"a.png", "b/a.png", "b/c/x.png", "b/x.png"}
    assert found == names | {f"overlays/{name}" for name in names | {"legend.png"}}
    assert left_out(tmp_path, files, output) == ""
  expected = np.asarray(picture).argmax(-1)
  np.testing.assert_array_equal(np.asarray(Image.open(output / "b/c/x.png")), expected)


def test_masks_beside_images_are_left_out(tmp_path):
  names = ["a.jpg", "a_mask.png", "b/c.jpg", "b/c_mask.png"]
  files = [tmp_path / name for name in names]
  images, masks = without_masks(files, tmp_path, "{name}.jpg", "{name}_mask.png")
  assert images == [files[0], files[2]] and masks == ["a_mask.png", "b/c_mask.png"]
  assert without_masks(files, tmp_path, "", "") == (files, [])
  only = files[1::2]  # asked for by name
  assert without_masks(only, tmp_path, "{name}.jpg", "{name}_mask.png") == (only, [])


def test_a_remedy_that_a_trained_network_cannot_follow_is_not_offered(tmp_path):
  tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 6), np.uint8), photometric="minisblack",
                   planarconfig="contig")  # fmt: skip
  with pytest.warns(DataWarning, match="3 of 6 bands are used .said once") as said:
    predict_files(predict, [tmp_path / "a.tif"], tmp_path, tmp_path / "out", RGB)
  assert "channels" not in str(said[0].message)

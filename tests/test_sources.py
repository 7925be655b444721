"""TFDS and Hugging Face data sets: tiny ones, written by the libraries themselves."""

import io
import pickle
import shutil
import socket
import sys

import numpy as np
import pytest
from PIL import Image
from tiny import error_of

from jaxseg import VOID
from jaxseg.data import datasets, sources
from jaxseg.data.examine import examine
from jaxseg.data.normalization import measure

tfds = pytest.importorskip("tensorflow_datasets", reason="pip install -e '.[tfds]'")
SIZES = {"train": 5, "test": 3}
CLASSES = {"classes": ("sky", "land")}
ALL_KEYS = {"classes": (), "palette": (), "channels": 3, "value_range": ()}


def pixels(split, i):
  """u8[6,8,3], different for every example."""
  return np.full((6, 8, 3), 40 * list(SIZES).index(split) + 7 * i, np.uint8)


def labels(i):
  """u8[6,8] of 0, 1 and, in a corner, VOID."""
  mask = (np.add.outer(np.arange(6), np.arange(8)) // (i + 1) % 2).astype(np.uint8)
  mask[0, 0] = VOID
  return mask


def png(array):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "png")
  return buffer.getvalue()


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Masks of several kinds; images of 8 and 16 bits."""

  VERSION = tfds.core.Version("1.2.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain"), tfds.core.BuilderConfig(name="other")]

  def _info(self):
    grey = (None, None, 1)
    features = {
      "image": tfds.features.Image(),
      "deep": tfds.features.Image(shape=grey, dtype=np.uint16, encoding_format="png"),
      "floats": tfds.features.Tensor(shape=(6, 8, 2), dtype=np.float32),
      "segmentation_mask": tfds.features.Image(shape=grey),
      "named": tfds.features.LabeledImage(labels=list(CLASSES["classes"]), shape=grey),
      "tensor": tfds.features.Tensor(shape=grey, dtype=np.uint8, encoding="zlib"),
      "image_id": tfds.features.Text(),
      "box": tfds.features.BBoxFeature(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SIZES}

  def _generate_examples(self, split):
    for i in range(SIZES[split]):
      mask = labels(i)
      yield (
        i,
        {
          "image": io.BytesIO(png(pixels(split, i))),
          "deep": io.BytesIO(png(np.full((6, 8), 1000 + i, np.uint16))),
          "floats": np.full((6, 8, 2), i / 4, np.float32),
          "segmentation_mask": io.BytesIO(png(mask)),
          "named": io.BytesIO(png(mask)),
          "tensor": mask[..., None],
          "image_id": f"{split}{i}",
          "box": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
        },
      )


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
  """TFDS folder with tiny/plain:1.2.0."""
  folder = tmp_path_factory.mktemp("tfds")
  Tiny(config="plain", data_dir=folder).download_and_prepare(file_format="array_record")
  return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
  """Folder with train.parquet and test.parquet, as other tools write them."""
  pa = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  folder = tmp_path_factory.mktemp("parquet")
  for split, number in SIZES.items():
    rows = [
      {
        "image": {"bytes": png(pixels(split, i)), "path": None},
        "segmentation_mask": {"bytes": png(labels(i)), "path": "mask.png"},
        "raw": png(labels(i)),
        "array": labels(i).tolist(),
        "image_id": f"{split}{i}",
        "number": i,
        "info": {"camera": "a"},
      }
      for i in range(number)
    ]
    kinds = {"array": pa.list_(pa.list_(pa.uint8()))}
    table = pa.Table.from_pylist(rows)
    for name, kind in kinds.items():
      i = table.schema.get_field_index(name)
      table = table.set_column(i, name, table[name].cast(kind))
    parquet.write_table(table, folder / f"{split}.parquet")
  return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  pytest.importorskip("datasets", reason="pip install -e '.[huggingface]'")
  monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))


def load(name, split, folder, **options):
  source = {"tfds": {"source": "tiny"}, "huggingface": {}}[name]
  options = {**source, **CLASSES, "data_dir": str(folder), **options}
  return datasets.load(name, split, **options)


FIELDS = {"tfds": ("segmentation_mask", "named", "tensor"),
          "huggingface": ("segmentation_mask", "raw", "array")}  # fmt: skip


@pytest.mark.parametrize("name, fields", FIELDS.items())
def test_examples_are_what_was_written(name, fields, tfds_dir, parquet):
  folder = tfds_dir if name == "tfds" else parquet
  for split, number in SIZES.items():
    for field in fields:
      info, source = load(name, split, folder, mask_field=field)
      assert (info.classes, info.channels, info.dtype) == (CLASSES["classes"], 3, "uint8")
      assert len(source) == number
      examples = {example["name"]: example for example in pickle.loads(pickle.dumps(source))}
      assert set(examples) == {f"{split}{i}" for i in range(number)}
      for i in range(number):
        example = examples[f"{split}{i}"]
        np.testing.assert_array_equal(example["image"], pixels(split, i))
        np.testing.assert_array_equal(example["mask"], labels(i))
        assert example["mask"].dtype == np.uint8
      encoded = {record["name"]: record for record in source.records}  # as stored
      assert encoded[f"{split}0"]["image"] == png(pixels(split, 0))
      assert encoded[f"{split}0"]["mask"] == png(labels(0)) or field in ("tensor", "array")
  with pytest.raises(IndexError):
    source[number]


@pytest.mark.parametrize("name", ["tfds", "huggingface"])
def test_parts_fields_and_errors(name, tfds_dir, parquet):
  folder = tfds_dir if name == "tfds" else parquet
  whole = load(name, "train", folder)[1]
  part = load(name, "train[40%:]", folder)[1]
  assert [x["name"] for x in part] == [x["name"] for x in whole][2:]
  assert len(load(name, "train+test", folder)[1]) == 8
  message = error_of(load, name, "val", folder)
  assert "no split 'val'" in message and "train" in message and "test" in message
  message = error_of(load, name, "train", folder, mask_field="mask")
  assert "`mask_field` is 'mask'" in message and "segmentation_mask" in message
  assert all(word not in message for word in ("box", "info", "number", "image_id"))
  assert "`image_field` is 'number'" in error_of(load, name, "train", folder, image_field="number")
  message = error_of(load, name, "train", folder, images="{name}.png")
  assert "`images` is for the data set 'folder'" in message
  assert "`classes` is empty: give 2" in error_of(load, name, "train", folder, classes=())
  info = datasets.describe(name, "x", **ALL_KEYS, label_space="ade20k")
  assert len(info.classes) == len(info.palette) == 150


def test_mask_values_and_label_space(tfds_dir):
  """The keys of folders count here, too."""
  info, source = load("tfds", "test", tfds_dir, mask_values=(1, 0))
  example = source[0]
  expected = labels(int(example["name"][-1]))
  flipped = np.where(expected == VOID, VOID, 1 - expected)
  np.testing.assert_array_equal(example["mask"], flipped)
  info, _ = load("tfds", "test", tfds_dir, classes=(), label_space="voc")
  assert len(info.classes) == 21


def test_depth_and_bands(tfds_dir):
  """16 bits stay 16 bits; arrays have any channels; their range is given or measured."""
  info, source = load("tfds", "train", tfds_dir, image_field="deep", channels=1)
  assert info.dtype == "uint16"
  names = [example["name"] for example in source]
  for example in source:
    np.testing.assert_array_equal(example["image"], 1000 + int(example["name"][-1]))
    assert example["image"].shape == (6, 8, 1) and example["image"].dtype == np.uint16
  floats = {"image_field": "floats", "channels": 2, "value_range": (0.0, 1.0)}
  info, source = load("tfds", "train", tfds_dir, **floats)
  assert info.dtype == "float32" and source[0]["image"].shape == (6, 8, 2)
  assert [x["image"].max() * 4 for x in source] == [int(name[-1]) for name in names]
  mean, std = 0.5, np.std([0, 0.25, 0.5, 0.75, 1])  # of the five images
  np.testing.assert_allclose(measure(source, "mean_std"), [(mean, mean + std)] * 2, rtol=1e-6)
  source = load("tfds", "train", tfds_dir, **{**floats, "value_range": ()})[1]
  assert "set `value_range`" in error_of(source.__getitem__, 0)


def test_tfds_names_its_classes(tfds_dir):
  message = error_of(load, "tfds", "train", tfds_dir, mask_field="named", classes=())
  assert "the data set has 2, set it to ('sky', 'land')" in message


def test_pets_by_their_name(data_dir):
  options = {"source": "oxford_iiit_pet:4.0.0", "data_dir": str(data_dir / "tfds")}
  assert "`label_space`='pets'" in error_of(datasets.load, "tfds", "test[:4]", **options)
  info, source = datasets.load("tfds", "test[:4]", label_space="pets", **options)
  own, expected = datasets.load("oxford_iiit_pet", "test[:4]", data_dir=options["data_dir"])
  assert info == own and len(source) == len(expected) == 4
  for i in range(4):
    assert source[i]["name"] == expected[i]["name"]
    for part in ("image", "mask"):
      np.testing.assert_array_equal(source[i][part], expected[i][part])


@pytest.mark.parametrize(
  "source, words",
  [
    ("tiny:1.1.0", "is not in DIR, but tiny/plain:1.2.0: name one"),
    ("tiny/other", "is not in DIR, but tiny/plain:1.2.0: name one"),
    ("scene_parse150", "not prepared in DIR: run tfds build scene_parse150 --file_format=array"),
    ("scene_prase150", "neither a data set of TFDS nor in DIR (perhaps scene_parse150)"),
    ("qqqq", "(it holds tiny/plain:1.2.0)"),
    ("", "(it holds tiny/plain:1.2.0)"),
    ("../x", "cannot be opened in DIR"),
    ("a:b:c", "cannot be opened in DIR"),
  ],
)  # fmt: skip
def test_tfds_that_is_not_there(tfds_dir, source, words):
  message = error_of(load, "tfds", "train", tfds_dir, source=source)
  assert words.replace("DIR", str(tfds_dir)) in message and repr(source) in message


def test_damaged_tfds(tfds_dir, tmp_path):
  shutil.copytree(tfds_dir / "tiny", tmp_path / "tiny")
  folder = tmp_path / "tiny/plain/1.2.0"
  shard = next(folder.glob("*-train.*"))
  data = shard.read_bytes()
  for damaged in (data[: len(data) // 2], data[:200] + bytes(100) + data[300:], b"no records"):
    shard.write_bytes(damaged)
    source = load("tfds", "train", tmp_path, dtype="uint8")[1]
    message = error_of(source.__getitem__, 0)
    assert "tiny train 0: cannot be read (" in message and "restore the files" in message
    (finding,) = examine(source, 2, 0).findings
    assert (finding.severity, finding.kind) == ("error", "examples that cannot be read")
  shard.unlink()
  assert f"{shard} is missing" in error_of(load, "tfds", "train", tmp_path)
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  message = error_of(load, "tfds", "train", tmp_path)
  assert f"{folder} is not in ArrayRecord format" in message and "file_format" in message
  info.write_text("{")
  assert "cannot be opened" in error_of(load, "tfds", "train", tmp_path)


def test_parquet_file_and_arrays_without_progress_bars(parquet, capfd):
  for options in ({"source": "test.parquet"}, {"source": "./test.parquet", "dtype": "uint8"}):
    source = load("huggingface", "train", parquet, **options)[1]
    assert [example["name"] for example in source] == ["test0", "test1", "test2"]
  path = str(parquet / "train.parquet")
  source = datasets.load("huggingface", "train", source=path, **CLASSES)[1]
  assert len(source) == SIZES["train"]
  assert "Generating" not in capfd.readouterr().err


def test_huggingface_features(tmp_path):
  """What the library itself writes: images and arrays; rows without names are numbered."""
  hf = pytest.importorskip("datasets")
  masks = [labels(i).tolist() for i in range(2)]
  features = hf.Features({"image": hf.Image(), "mask": hf.Array2D((6, 8), "uint8")})
  images = [Image.fromarray(pixels("train", i)) for i in range(2)]
  table = hf.Dataset.from_dict({"image": images, "mask": masks}, features=features)
  table.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
  source = load("huggingface", "train", tmp_path, mask_field="mask")[1]
  for i in range(2):
    np.testing.assert_array_equal(source[i]["image"], pixels("train", i))
    np.testing.assert_array_equal(source[i]["mask"], labels(i))
    assert source[i]["name"] == f"{tmp_path} train {i}"
  info, source = load("huggingface", "train", tmp_path, image_field="mask", mask_field="mask",
                      channels=1)  # fmt: skip
  assert info.dtype == "uint8" and source[0]["image"].shape == (6, 8, 1)


def test_records_say_where_they_are(tmp_path):
  """Rows of two splits may have the same name, which need not be UTF-8."""
  rows = [{"image": b"x", "mask": b"y", "id": name} for name in (7, b"caf\xe9")]
  found = sources.Records(rows, "cells train", "image", "mask", "id")
  assert [(x["name"], x["where"]) for x in found] == [
    ("7", "cells train 0 (7)"), ("caf\\xe9", "cells train 1 (caf\\xe9)")
  ]  # fmt: skip


def test_damaged_parquet(parquet, tmp_path):
  pa = pytest.importorskip("pyarrow")
  from pyarrow import parquet as files

  rows = files.read_table(parquet / "train.parquet").to_pylist()
  rows[1]["image"]["bytes"] = png(pixels("train", 1))[:40]
  rows[2]["segmentation_mask"] = None
  files.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
  source = load("huggingface", "train", tmp_path)[1]  # nothing is decoded yet
  np.testing.assert_array_equal(source[0]["mask"], labels(0))
  assert "train 1 (train1): cannot be decoded" in error_of(source.__getitem__, 1)
  assert "train 2: cannot be read (its image or mask is empty)" in error_of(source.__getitem__, 2)
  data = (tmp_path / "train.parquet").read_bytes()
  for damaged in (data[:300], b"", b"PAR1" + bytes(60) + b"PAR1"):
    (tmp_path / "train.parquet").write_bytes(damaged)
    message = error_of(load, "huggingface", "train", tmp_path)
    assert f"{tmp_path} cannot be opened by Hugging Face datasets (" in message


def test_huggingface_that_is_not_there(parquet, tmp_path):
  assert "`source` is empty" in error_of(datasets.load, "huggingface", "train", **CLASSES)
  for options in ({"source": "val.parquet"}, {"source": "owner/name"}):
    message = error_of(load, "huggingface", "train", parquet, **options)
    assert f"no file or folder {parquet / options['source']}" in message
  assert "holds no .parquet file" in error_of(load, "huggingface", "train", tmp_path)
  for name in ("owner/name", "name:config", "owner/name.v2"):  # on the Hub, which is out of reach
    message = error_of(datasets.load, "huggingface", "train", source=name, **CLASSES)
    assert message.startswith(f"{name} cannot be opened by Hugging Face datasets (")


def test_huggingface_hub(parquet, monkeypatch):
  """A name, and a config after a colon, reach the library; a folder does not stand for the Hub."""
  hf = pytest.importorskip("datasets")
  calls, builder = [], hf.load_dataset_builder(str(parquet))
  monkeypatch.setattr(hf, "load_dataset_builder", lambda *a, **b: calls.append((a, b)) or builder)
  for name in ("owner/name", "owner/name:config"):
    source = datasets.load("huggingface", "test", source=name, **CLASSES)[1]
    assert [example["name"] for example in source] == ["test0", "test1", "test2"]
  load("huggingface", "test", parquet)
  names = [("owner/name", None), ("owner/name", "config"), (str(parquet),)]
  assert calls == [(arguments, {}) for arguments in names]


@pytest.mark.parametrize("name, package", [("tfds", "tensorflow_datasets"),
                                           ("huggingface", "datasets")])  # fmt: skip
def test_without_their_extra(name, package, monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, package, None)  # as if not installed
  message = error_of(load, name, "train", tmp_path, source="x")
  assert f"{name} needs {package}: run pip install -e '.[{name}]'" in message

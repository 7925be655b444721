"""Records of TFDS and of Hugging Face `datasets`, read one by one and not decoded.

The two libraries are extras of jaxseg and are imported where they are needed.
"""

import collections.abc
import contextlib
import dataclasses
import difflib
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg import UserError

NAME_FIELDS = ("file_name", "filename", "image_id", "id", "name")  # of data sets that name examples


@dataclasses.dataclass(frozen=True)
class Records(collections.abc.Sequence):
  """Records for `encoded.Encoded` from the rows of a table; can be pickled.

  Attributes:
    rows: {field: value}; bytes of an image, {"bytes", "path"}, or an array.
    where: of the rows, in errors.
    image_field, mask_field: names of fields.
    name_field: of the field that names a row; "" for its number.
    classes: names that the data set itself gives to the values of masks.
    dtypes: {field: type of its arrays}, where `rows` has them in another.
  """

  rows: Sequence[Mapping[str, Any]]
  where: str
  image_field: str
  mask_field: str
  name_field: str = ""
  classes: tuple[str, ...] = ()
  dtypes: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> dict[str, Any]:
    if not 0 <= i < len(self):
      raise IndexError(f"example {i} of {len(self)}")
    where = f"{self.where} {i}"
    try:
      row = self.rows[i]
      image, mask = (
        _file(row[field], self.dtypes.get(field)) for field in (self.image_field, self.mask_field)
      )
    except Exception as error:  # damaged files raise nearly anything
      raise UserError(
        f"{where}: cannot be read ({_reason(error)}): restore the files of the data set"
      ) from error
    if not self.name_field:
      return {"image": image, "mask": mask, "name": where}
    name = row[self.name_field]
    name = name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
    return {"image": image, "mask": mask, "name": name, "where": f"{where} ({name})"}


def _file(value, dtype):
  """Encoded bytes or a path; of an array, the bytes of an .npy file."""
  if isinstance(value, Mapping):
    value = value.get("bytes") or value.get("path")
  if isinstance(value, np.ndarray):
    buffer = io.BytesIO()
    np.save(buffer, value.astype(dtype or value.dtype), allow_pickle=False)
    return buffer.getvalue()
  if not value:
    raise ValueError("its image or mask is empty")
  return value


def _check_fields(where, known, image_field, mask_field):
  """Raises UserError unless `known`, the fields that hold images, has both."""
  for key, field in ("image_field", image_field), ("mask_field", mask_field):
    if field not in known:
      raise UserError(
        f"`{key}` is {field!r}, but the fields with images in {where} are "
        f"{', '.join(known) or 'none'}: set it to one of them"
      )


def _reason(error):
  """One line about what went wrong first."""
  while error.__cause__:
    error = error.__cause__
  return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_tfds(
  source: str, data_dir: str, split: str, image_field: str, mask_field: str
) -> Records:
  """Opens a split of a TFDS data set that is prepared, without TensorFlow or its builder's code.

  Args:
    source: "NAME", "NAME/CONFIG", "NAME:VERSION" or both.
    data_dir: TFDS folder; "" is TFDS's default.
    split: also a part in TFDS's notation, such as "train[:90%]".
    image_field, mask_field: names of features.
  Raises:
    UserError: no such data set, field or split; it is not prepared, or not in ArrayRecord format.
  """
  import tensorflow_datasets as tfds

  place = pathlib.Path(os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR))
  try:
    if not source:
      raise tfds.core.DatasetNotFoundError
    builder = tfds.core.read_only_builder.builder_from_files(source, data_dir=place)
  except tfds.core.DatasetNotFoundError:
    raise UserError(_not_prepared(source, place, tfds)) from None
  except Exception as error:  # a malformed name, damaged files
    raise UserError(
      f"`source`={source!r} cannot be opened in {place} ({_reason(error)}): write NAME, "
      "NAME/CONFIG or NAME:VERSION of a data set that is there"
    ) from error
  return tfds_records(builder, split, image_field, mask_field)


def _not_prepared(source, place, tfds):
  """What to do about a data set that is not in the TFDS folder."""
  files = [*place.glob("*/*/dataset_info.json"), *place.glob("*/*/*/dataset_info.json")]
  there = ["/".join(file.relative_to(place).parts[:-1]) for file in sorted(files)]
  there = [":".join(path.rsplit("/", 1)) for path in there]
  name = source.replace(":", "/").split("/")[0]
  if same := [x for x in there if x.replace(":", "/").split("/")[0] == name]:
    return f"`source`={source!r} is not in {place}, but {', '.join(same)}: name one of them"
  known = tfds.list_builders(with_community_datasets=False)
  if name in known:
    return (
      f"`source`={source!r} is not prepared in {place}: run tfds build {source} "
      f"--file_format=array_record --data_dir={place}, or correct `data_dir`"
    )
  near = difflib.get_close_matches(name, sorted({*known, *there}), 3)
  hint = f"perhaps {' or '.join(near)}" if near else f"it holds {', '.join(there) or 'none'}"
  return (
    f"`source`={source!r} is neither a data set of TFDS nor in {place} ({hint}): correct `source` "
    "or `data_dir`"
  )


def tfds_records(builder: Any, split: str, image_field: str, mask_field: str) -> Records:
  """The records of a split of a TFDS builder; see `open_tfds`."""
  import tensorflow_datasets as tfds

  where, splits = builder.data_path, builder.info.splits
  if not splits:
    raise UserError(f"{where} holds no data set: delete it or correct `data_dir`")
  features = builder.info.features
  features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  images = {name for name, x in features.items() if isinstance(x, tfds.features.Image)}
  known = [name for name, x in features.items() if name in images or _is_array(x, tfds)]
  _check_fields(where, known, image_field, mask_field)
  name_field = next((name for name in NAME_FIELDS if name in features), "")
  # Float images are stored as four channels of a PNG, which only TFDS puts together.
  skipped = [x for x in images if np.dtype(features[x].np_dtype).kind == "u"]
  decoders = dict.fromkeys(skipped, tfds.decode.SkipDecoding())
  try:
    rows = builder.as_data_source(split, decoders=decoders)
    files = [part.filename for part in splits[split].file_instructions]
  except NotImplementedError:
    raise UserError(
      f"{where} is not in ArrayRecord format: set `data_dir` to another folder and prepare it "
      "there, with --file_format=array_record"
    ) from None
  except (KeyError, ValueError):
    raise UserError(
      f"no split {split!r} in {where}: use {' or '.join(splits)}, or a non-empty part such as "
      "train[:90%]"
    ) from None
  for file in files:
    if not pathlib.Path(file).exists():
      raise UserError(f"{file} is missing: restore it, or delete its folder to prepare it again")
  classes = tuple(getattr(features[mask_field], "names", None) or ())
  return Records(rows, f"{builder.name} {split}", image_field, mask_field, name_field, classes)


def _is_array(feature, tfds):
  """Whether a feature of TFDS is numbers [H,W] or [H,W,channels]."""
  is_tensor = type(feature) is tfds.features.Tensor and len(feature.shape) in (2, 3)
  return is_tensor and np.dtype(feature.np_dtype).kind in "buif"


def open_huggingface(
  source: str, data_dir: str, split: str, image_field: str, mask_field: str
) -> Records:
  """Opens a split of a data set of Hugging Face `datasets`.

  The library copies it, encoded, to its cache and reads from there.

  Args:
    source: a folder of parquet files; a .parquet file, which is the split "train"; or, unless
      `data_dir` is set, "NAME" or "NAME:CONFIG" on the Hub, from where it is downloaded.
    data_dir: folder of a relative `source`; "" for the working directory.
    split: also a part, such as "train[:90%]".
    image_field, mask_field: names of columns.
  Raises:
    UserError: no such data set, column or split; it cannot be read.
  """
  import datasets as hf

  if not (source or data_dir):
    raise UserError(
      "`source` is empty: set it to the name of a data set on the Hugging Face Hub, or to a folder "
      "of parquet files"
    )
  place = pathlib.Path(os.path.expanduser(os.path.join(data_dir, source))).absolute()
  is_local = os.path.exists(place)
  is_path = data_dir or source.startswith(("/", ".", "~")) or source.endswith(".parquet")
  if is_path and not is_local:
    raise UserError(f"no file or folder {place}: correct `source` or `data_dir`, which is empty "
                    "for a name on the Hub")  # fmt: skip
  where = str(place) if is_local else source
  if place.is_dir() and not any(place.rglob("*.parquet")):
    raise UserError(f"{place} holds no .parquet file: correct `source` or `data_dir`")
  with _no_progress(hf) if is_local else contextlib.nullcontext():
    try:
      if place.is_file():
        builder = hf.load_dataset_builder(str(place.parent), data_files=place.name)
      elif is_local:
        builder = hf.load_dataset_builder(str(place))
      else:
        name, _, config = source.partition(":")
        builder = hf.load_dataset_builder(name, config or None)
      builder.download_and_prepare()
    except Exception as error:  # no network, no such name, damaged files
      raise UserError(
        f"{where} cannot be opened by Hugging Face datasets ({_reason(error)}): correct `source`, "
        "or restore its files"
      ) from error
    try:
      table = builder.as_dataset(split)
    except Exception:
      splits = " or ".join(builder.info.splits)
      raise UserError(
        f"no split {split!r} in {where}: use {splits}, or a part such as train[:90%]"
      ) from None
  kinds = {name: kind for name, x in table.features.items() if (kind := _kind(x, hf))}
  _check_fields(where, list(kinds), image_field, mask_field)
  fields = dict.fromkeys((image_field, mask_field))
  for field in fields:
    if kinds[field] == "image":
      table = table.cast_column(field, hf.Image(decode=False))
  name_field = next((x for x in NAME_FIELDS if x in table.features and x not in fields), "")
  table = table.select_columns([*fields, *filter(None, [name_field])])
  dtypes = {field: kinds[field] for field in fields if kinds[field] not in ("image", "bytes")}
  if dtypes:  # all whole numbers become int64, floats float32
    table = table.with_format("numpy", columns=[*dtypes], output_all_columns=True)
  return Records(table, f"{where} {split}", image_field, mask_field, name_field, dtypes=dtypes)


@contextlib.contextmanager
def _no_progress(hf) -> Iterator[None]:
  if hf.are_progress_bars_disabled():
    yield
    return
  hf.disable_progress_bars()
  try:
    yield
  finally:
    hf.enable_progress_bars()


def _kind(feature, hf):
  """ "image", "bytes" or the type of an array; "" for a column that is no image or mask."""
  if isinstance(feature, hf.Image):
    return "image"
  if isinstance(feature, Mapping) and isinstance(feature.get("bytes"), hf.Value):
    return "bytes"
  if isinstance(feature, hf.Value) and feature.dtype in ("binary", "large_binary"):
    return "bytes"
  depth = len(feature.shape) if isinstance(feature, hf.Array2D | hf.Array3D) else 0
  while isinstance(feature, hf.List | hf.LargeList):
    feature, depth = feature.feature, depth + 1
  dtype = str(getattr(feature, "dtype", ""))
  is_number = dtype.startswith(("int", "uint", "float", "bool"))
  return dtype if depth in (2, 3) and is_number else ""

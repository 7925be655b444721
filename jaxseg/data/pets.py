"""Oxford-IIIT Pets through TFDS, prepared and read without TensorFlow.

TFDS's own builder wants TensorFlow to unpack the two archives and to re-encode a dozen damaged
pictures. Ours walks through the archives with tarfile and re-encodes with Pillow; features, keys
and splits are the official ones, so either builder reads what the other has prepared.
"""

import io
import os
import pathlib
import tarfile
import xml.etree.ElementTree as ET

import requests
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.oxford_iiit_pet import (
  oxford_iiit_pet_dataset_builder as official,
)

from jaxseg import UserError
from jaxseg.data.sources import Records, tfds_records

HEAD_BOX = tuple(f"object/bndbox/{edge}" for edge in ("ymin", "xmin", "ymax", "xmax"))


class PetsBuilder(official.Builder, skip_registration=True):
  """The official builder (4.0.0) with the steps that need TensorFlow done without it."""

  name = official.Builder.name
  pkg_dir_path = pathlib.Path(official.__file__).parent  # description and citation
  url_infos = official.Builder.url_infos  # {url: size, SHA-256}; without it nothing is verified

  def _split_generators(self, dl_manager):
    urls = {pathlib.PurePosixPath(url).name.split(".")[0]: url for url in self.url_infos}
    cached = "".join(info.read_text() for info in dl_manager.download_dir.glob("*/*.INFO"))
    for url in urls.values():
      if url not in cached:  # offline, this fails at once; TFDS would retry for minutes
        requests.get(url, stream=True, timeout=30).close()
    archives = dl_manager.download(urls)
    return {
      "train": self._generate_examples(archives, "trainval.txt"),
      "test": self._generate_examples(archives, "test.txt"),
    }

  def _generate_examples(self, archives, list_name):
    # TFDS orders examples by the hash of their key: the order in the archive does not matter.
    notes = {str(path): content for path, content in _read_tar(archives["annotations"])}
    lines = notes[f"annotations/{list_name}"].decode().splitlines()
    numbers = {line.split()[0]: line.split()[1:3] for line in lines}
    for path, image in _read_tar(archives["images"]):
      name = path.stem
      if path.suffix != ".jpg" or name not in numbers:  # .mat, ._ files, the other split
        continue
      label, species = numbers.pop(name)
      yield (
        path.name,
        {
          "image": _reencode(image) if name in official._CORRUPT_SAMPLES else image,
          "label": int(label) - 1,
          "species": int(species) - 1,
          "file_name": path.name,
          "segmentation_mask": notes[f"annotations/trimaps/{name}.png"],
          "head_bbox": _head_box(notes.get(f"annotations/xmls/{name}.xml")),
        },
      )
    if numbers:
      raise FileNotFoundError(f"{len(numbers)} pictures of {list_name} are not in the archive")


def _read_tar(archive):
  """Yields (path, bytes) of every file in a tar archive, compressed or not."""
  with tarfile.open(archive) as tar:
    for member in tar:
      if (file := tar.extractfile(member)) is not None:  # None: a folder
        yield pathlib.PurePosixPath(member.name), file.read()


def _reencode(image):
  """Encoded picture of any kind, bytes -> JPEG of its colours (alpha dropped), bytes."""
  buffer = io.BytesIO()
  Image.open(io.BytesIO(image)).convert("RGB").save(buffer, "JPEG", quality=95)
  return buffer.getvalue()


def _head_box(xml):
  """Annotation file, bytes -> head box in parts of the picture; all zeros for None."""
  if xml is None:
    return tfds.features.BBox(0.0, 0.0, 0.0, 0.0)
  root = ET.fromstring(xml)
  height, width, *box = (
    float(root.findtext(tag)) for tag in ("size/height", "size/width", *HEAD_BOX)
  )
  return tfds.features.BBox(box[0] / height, box[1] / width, box[2] / height, box[3] / width)


def open_pets(data_dir: str, split: str) -> Records:
  """Opens a split of Oxford-IIIT Pets; prepares the data set (0.8 GB download) if necessary.

  Args:
    data_dir: TFDS folder for oxford_iiit_pet/4.0.0; "" is TFDS's default.
    split: "train", "test", or a part in TFDS's notation such as "train[:90%]".
  Returns:
    Records: {"image": JPEG bytes of u8[H,W,3], "mask": PNG bytes of u8[H,W] (1 pet,
    2 background, 3 outline), "name": file name, str}.
  Raises:
    UserError: no such folder or split; the data set cannot be prepared; files are missing.
  """
  folder = os.path.expanduser(data_dir) if data_dir else None
  if folder and not os.path.isdir(folder):
    raise UserError(f"no folder {data_dir}: create it or correct `data_dir`")
  builder = PetsBuilder(data_dir=folder)
  if not builder.data_path.exists():
    _prepare(builder)
    builder = PetsBuilder(data_dir=folder)
  return tfds_records(builder, split, "image", "segmentation_mask")


def _prepare(builder):
  """Downloads and converts the data set into builder.data_path, or raises UserError."""
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  bad_download = (
    requests.RequestException,
    tfds.download.DownloadError,
    tfds.download.download_manager.NonMatchingChecksumError,
  )
  try:
    builder.download_and_prepare(download_config=config, file_format="array_record")
  except (OSError, *bad_download) as error:
    if builder.data_path.exists():  # another process has prepared it meanwhile
      return
    if isinstance(error, bad_download):
      reason = f"could not be downloaded (no network? {type(error).__name__})"
    else:
      reason = f"could not be written there ({error})"
    raise UserError(
      f"oxford_iiit_pet is not prepared in {builder.data_dir_root} and {reason}: prepare it on a "
      "connected machine in a folder you can write to, and set `data_dir` to that folder"
    ) from error

"""Prepares the three breeds of Oxford-IIIT Pets that this experiment trains on.

python experiments/pets_tutorial/subset.py DIR

downloads both archives (0.8 GB) and writes DIR/oxford_iiit_pet/4.0.0, in which training finds 300
images and testing 298. DIR must not hold all breeds already. Needs pip install -e '.[tfds]'.
"""

import pathlib
import sys

import tensorflow_datasets as tfds

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from jaxseg.data.pets import PetsBuilder  # noqa: E402

BREEDS = ("Abyssinian", "american_bulldog", "Bengal")  # as their files are called


class ThreeBreeds(PetsBuilder, skip_registration=True):
  """The builder of all breeds, which leaves out the others."""

  name = PetsBuilder.name

  def _generate_examples(self, archives, list_name):
    for name, example in super()._generate_examples(archives, list_name):
      if name.rpartition("_")[0] in BREEDS:
        yield name, example


def prepare(data_dir):
  """Writes the data set into this folder of TFDS."""
  builder = ThreeBreeds(data_dir=data_dir)
  if builder.data_path.exists():
    sys.exit(f"{builder.data_path} is there already: give another DIR")
  config = tfds.download.DownloadConfig(try_download_gcs=False)
  builder.download_and_prepare(download_config=config, file_format="array_record")
  for split, info in builder.info.splits.items():
    print(f"{split}: {info.num_examples} images in {builder.data_path}")


if __name__ == "__main__":
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  prepare(sys.argv[1])

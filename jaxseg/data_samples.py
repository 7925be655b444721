"""The examples of a split that pictures show, and windows of them as training sees them."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import VOID, build, parallel, settings
from jaxseg.augment import Augmentation
from jaxseg.data.datasets import Subset
from jaxseg.data.decode import DatasetInfo, to_picture
from jaxseg.data.examine import Example
from jaxseg.data.labels import LabelMap
from jaxseg.data.normalization import measure
from jaxseg.train_step import augmented

MAX_SIDE = 1024  # px, of pictures on the sheet
MAX_WINDOW = 512  # px, of windows on theirs
NUM_EXAMPLES, NUM_DRAWS = 3, 5  # of the sheet of windows
MAX_PIXELS = 2**24  # of its windows as the step sees them, unless one example has more


@dataclasses.dataclass(frozen=True)
class Split:
  """A split that was read.

  Attributes:
    title: role and name.
    info, source: see `datasets.load`; `info` with the black and white that networks see.
    examples: list of Example.
  """

  title: str
  info: DatasetInfo
  source: Sequence
  examples: list[Example]

  @property
  def good(self) -> list[int]:
    """The examples without errors."""
    return [
      example.index
      for example in self.examples
      if not example.fault and all(f.severity == "warning" for f in example.findings)
    ]

  @property
  def labels(self) -> LabelMap:
    """What values of masks mean."""
    own = LabelMap({label: label for label in range(len(self.info.classes))})
    return getattr(self._files, "labels", own)

  @property
  def orient(self) -> bool:
    """Whether images are turned as their EXIF orientation says."""
    return hasattr(self._files, "fmt") and self._files.fmt.orient

  @property
  def _files(self):
    """The source that decodes files, of which this may be a part."""
    return self.source.source if isinstance(self.source, Subset) else self.source

  def counts(self, indices: Sequence[int]) -> np.ndarray:
    """i64[N,C], pixels of each class in these examples."""
    num_classes = len(self.info.classes)
    rows = [self.examples[i].counts[:num_classes] for i in indices]
    return np.array(rows, np.int64).reshape(-1, num_classes)


def with_black_and_white(splits: Mapping[str, Split], mode: str) -> dict[str, Split]:
  """Splits whose `info` has the value_range that config.data.normalization measures.

  It is measured on the first split's examples without errors.
  """
  first = next(iter(splits.values()))
  if mode == "range" or not first.good:
    return dict(splits)
  value_range = measure(Subset(first.source, first.good), mode)
  return {
    role: dataclasses.replace(split, info=dataclasses.replace(split.info, value_range=value_range))
    for role, split in splits.items()
  }


def choose(counts: np.ndarray, number: int, shown: np.ndarray | None = None) -> list[int]:
  """Up to `number` examples: first those that show classes that are not shown yet, by a greedy
  cover (the most such classes; of several, the one whose scarcest is largest), then others, evenly
  spread.

  Args:
    counts: i64[N,C], pixels of each class in each example.
    shown: bool[C], classes that are shown elsewhere.
  Returns:
    their indices, ascending
  """
  shown = np.zeros(counts.shape[1], bool) if shown is None else shown
  shares = counts / np.maximum(counts.max(0, initial=0), 1)  # of the most that any example has
  chosen = []
  while len(chosen) < number and (new := (counts > 0) & ~shown).any():
    scarcest = np.where(new, shares, 1).min(1)
    chosen.append(int((new.sum(1) + scarcest / 2).argmax()))
    shown = shown | (counts[chosen[-1]] > 0)
  others = [i for i in range(len(counts)) if i not in chosen]
  num_others = min(number - len(chosen), len(others))
  return sorted(chosen + [others[i * len(others) // num_others] for i in range(num_others)])


def choose_samples(
  splits: Mapping[str, Split], number: int
) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """Up to `number` examples of each split without errors, see `choose`.

  Returns:
    [(name, picture u8[H,W,1 or 3], mask u8[H,W])], subsampled if they are large
  """
  samples, shown = [], None
  for role, split in splits.items():
    good = split.good
    counts = split.counts(good)
    chosen = choose(counts, number, shown)
    found = counts[chosen].any(0)
    shown = found if shown is None else shown | found
    for i in chosen:
      example = split.source[good[i]]
      step = -(-max(example["mask"].shape) // MAX_SIDE)
      image, mask = (example[part][::step, ::step] for part in ("image", "mask"))
      samples.append((f"{role}: {example['name']}", to_picture(image, split.info), mask))
  return samples


def training_windows(config: ConfigDict, split: Split) -> list[tuple[str, np.ndarray, np.ndarray]]:
  """What the training step gets: up to NUM_DRAWS draws of up to NUM_EXAMPLES examples each.

  Sampling, windows and augmentation are those of training, with keys of the same seed. Where a
  valid convolution has no logits, the mask is VOID.

  Returns:
    [(name, pictures u8[NUM_DRAWS,h,w,1 or 3], masks u8[NUM_DRAWS,h,w])], subsampled if they are
    large; none if config.eval.num_samples is 0
  Raises:
    UserError: settings that training refuses, too.
  """
  info, good = split.info, split.good
  margin = build.build_model(config, info).margin
  held = split.counts(range(len(split.examples))) > 0
  examples = {name: np.flatnonzero(held[:, i]) for i, name in enumerate(info.classes)}
  counts = {"examples": {name: numbers.tolist() for name, numbers in examples.items()}}
  build.build_batches(config, info, split.source, margin, counts)
  one = settings.override(
    config,
    {"data.class_balanced": 0.0, "train.batch_size": NUM_DRAWS * parallel.this_process()[1]},
  )
  shown = dataclasses.replace(info, value_range=(0.0, 1.0))  # as `normalize` returns it
  options = {"value_range": info.value_range, "clip": info.clip}
  draw = functools.partial(augmented, augmentation=Augmentation(**config.augment), **options)
  draw, found = jax.jit(draw), []
  most = max(1, MAX_PIXELS // (NUM_DRAWS * config.data.image_size**2))
  chosen = choose(split.counts(good), min(NUM_EXAMPLES, most, config.eval.num_samples))
  for number, i in enumerate(chosen):
    source = Subset(split.source, (good[i],))
    batches = build.build_batches(one, info, source, margin)
    batch = next(itertools.islice(batches, number, None))  # other draws for each example
    image, labels = draw(batch, jax.random.key(config.seed))
    mask, inner = np.array(labels["mask"]), np.s_[margin or None : -margin or None]
    is_outside = np.ones(mask.shape[1:], bool)
    is_outside[inner, inner] = False
    mask[:, is_outside] = VOID
    step = np.s_[:: -(-mask.shape[1] // MAX_WINDOW)]
    pictures = [to_picture(x, shown) for x in np.asarray(image)[:, step, step]]
    found.append((source[0]["name"], np.stack(pictures), mask[:, step, step]))
  return found

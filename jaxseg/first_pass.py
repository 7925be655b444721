"""What a run measures on its training split, once, when it begins."""

import collections.abc
import operator
import pathlib

from ml_collections import ConfigDict

from jaxseg import UserError, build, checkpoint, parallel, workdirs
from jaxseg.data import changes
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.normalization import measure
from jaxseg.notebook import progress
from jaxseg.run import tell
from jaxseg.weight_maps import count_classes


def measured_range(
  config: ConfigDict, workdir: str | pathlib.Path, *, reuse: bool
) -> tuple[tuple[float, float], ...]:
  """The value_range that config.data.normalization measures on the training split; else ().

  It is measured once, when a run begins; checkpoints hold it, and normalization.json shows it.

  Args:
    reuse: the run has begun before.
  """
  mode = config.data.normalization
  if mode == "range":
    return ()

  def find():
    if reuse and workdirs.has_checkpoint(workdir):  # else the run of this seed begins anew
      value_range = checkpoint.best_checkpoint(workdir)[1]["info"]["value_range"]
    else:
      _, source = build.open_split(config, "train")
      value_range = measure(source, mode, progress)
    stored = {"normalization": mode, "value_range": value_range}
    workdirs.write_json(pathlib.Path(workdir) / "normalization.json", stored)
    return value_range

  return tuple(tuple(pair) for pair in parallel.on_main(find))


def share(workdir: str | pathlib.Path, others: collections.abc.Sequence) -> None:
  """Gives other runs on the same data, by their work directories, what this run has measured."""
  for name in ("class_counts.json", "normalization.json"):
    path = pathlib.Path(workdir) / name
    for other in others if path.exists() else ():
      workdirs.write_file(pathlib.Path(other) / name, path.read_bytes())


def class_counts(
  config: ConfigDict,
  info: DatasetInfo,
  source: collections.abc.Sequence,
  workdir: str | pathlib.Path,
  *,
  reuse: bool,
) -> dict | None:
  """Where each class occurs, if the config balances classes; see `weight_maps.count_classes`.

  This is counted once and stored in the work directory, in class_counts.json.

  Args:
    reuse: what is stored there is of this run: it has begun before.
  """
  if not (config.train.class_balance or config.data.class_balanced):
    return None

  def count():
    path = pathlib.Path(workdir) / "class_counts.json"
    remedy, now = "delete it, and it is made anew", changes.digest(source)
    counts = workdirs.read_json(path, remedy) if reuse else None
    if counts is not None and not _is_whole(counts, info.classes):
      classes = ", ".join(info.classes)
      raise UserError(f"{path} does not hold counts of the classes {classes}: {remedy}")
    if counts and (text := changes.difference(counts, now)):
      tell(
        f"note: {path} is of a training split that has changed since ({text}): it is made anew, "
        "and class weights and sampling by classes follow it"
      )
      counts = None
    if counts is None:
      masks = (example["mask"] for example in source)
      masks = progress(masks, desc="pixels of each class", total=len(source), leave=False)
      counts = {**count_classes(masks, info.classes), "names": now["names"]}
      workdirs.write_json(path, counts)
    return counts

  return parallel.on_main(count)


def _is_whole(counts, classes):
  """Whether these can be counts of all classes, in their order."""
  pixels, of_images = (counts.get(name) for name in ("pixels", "pixels_of_their_images"))
  examples = counts.get("examples", dict.fromkeys(classes, []))  # those of 0.1.0 have none
  tables, number = (pixels, of_images, examples), counts.get("num_examples", 0)
  if not all(isinstance(table, dict) and [*table] == [*classes] for table in tables):
    return False
  if not all(isinstance(listed, list) for listed in examples.values()):
    return False
  places = [place for listed in examples.values() for place in listed]
  numbers = [*pixels.values(), *of_images.values(), *places, number]
  return (
    all(type(x) is int and x >= 0 for x in numbers)
    and all(map(operator.le, pixels.values(), of_images.values()))
    and max(places, default=-1) < number
  )

"""The mode predict: folders of images, shared by all processes."""

import collections.abc
import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import signal
import sys
import threading
from typing import Any

import jax
import numpy as np
import tqdm
from ml_collections import ConfigDict

from jaxseg import UserError, faults, packed, parallel, peers, settings
from jaxseg.data.decode import DatasetInfo
from jaxseg.data.files import few, num_pages
from jaxseg.data.windows import WindowedImage, is_large
from jaxseg.large import predict_large
from jaxseg.listing import OVERLAYS, Listing, check_paths, describe, is_folder
from jaxseg.notebook import progress
from jaxseg.platforms import usual_rules
from jaxseg.predict_files import MAX_NAMED, Outcome, predict_files, write_legend
from jaxseg.predictors import build_window_predictor
from jaxseg.printing import printable, say
from jaxseg.schema import flatten
from jaxseg.segmenter import Segmenter, load_run
from jaxseg.together import agreed, json_from_all
from jaxseg.workdirs import make_folder, with_home


@with_home("workdir", "source", "output")
@usual_rules()
def predict_folder(
  workdir: str | pathlib.Path,
  source: str | pathlib.Path,
  output: str | pathlib.Path,
  overrides: collections.abc.Mapping[str, Any] | None = None,
  *,
  config: ConfigDict | None = None,
  overwrite: bool = False,
) -> None:
  """Writes a label map and an overlay for every image of a folder, or for one file.

  Processes share the files. What the same network has written before is not made again.

  Args:
    workdir, overrides, config: see `each_seed.evaluate`.
    source: folder or file.  output: folder, created if missing; see `predict_files.predict_files`.
    overwrite: makes it again.
  Raises:
    UserError: see `each_seed.evaluate`; no images; outputs would lie among them. At the end, if
      images cannot be read or predicted; the label maps of all others are there.
  """
  output = pathlib.Path(output)
  with agreed():
    check_paths(source, output)
  segmenter = load_run(workdir, overrides or {}, config)
  is_packed = parallel.on_main(packed.is_packed, workdir)  # only process 0 may have its folder
  number, count = parallel.this_process()
  with agreed(output), settings.config_errors():
    data, info = segmenter.config.data, segmenter.info
    patterns = data.images, data.masks
    if is_packed:  # those of somebody else's files say nothing about these
      patterns = ((overrides or {}).get(f"data.{name}", "") for name in ("images", "masks"))
    listing = Listing(source, output, *patterns)
    make_folder(output / OVERLAYS, "--output")
    if number == 0:
      write_legend(output / OVERLAYS, info, listing.legends, overwrite)
  several = is_folder(source)
  rows, files, in_step = (0, 1), (number, count), contextlib.nullcontext
  if count > 1 and by_windows(segmenter, rows, in_step) and is_one_large(listing, info):
    rows, files, in_step = files, rows, functools.partial(agreed, output)
  outcome, share = Outcome(), len(range(files[0], listing.total, files[1]))
  shown = {"total": share, "unit": "image", "disable": number > 0}
  shown |= {"desc": f"process 0 of {count}"} if count > 1 else {}
  with stopping(outcome), progress(**shown) as bar:
    try:
      predict_files(
        segmenter.predict, listing.share(*files), output, info, outcome, mark=mark(segmenter),
        overwrite=overwrite, side=data.image_size if data.fit == "resize" else 0,
        large=by_windows(segmenter, rows, in_step), agreed=in_step, bar=bar,
        progress=progress, say=tell if several else lambda text: None,
      )  # fmt: skip
    except UserError as error:
      outcome.error = settings.with_keys(str(error))
    except OSError as error:
      if not (text := faults.describe(error, output)):
        raise
      outcome.error = text
  outcome.seen = listing.seen
  if rows[0]:  # the first process counts the image
    outcome = Outcome(error=outcome.error, seen=outcome.seen)
  outcomes = [Outcome(**found) for found in json_from_all(dataclasses.asdict(outcome))]
  errors = conclude(outcomes, several)
  if number == 0:
    if text := describe(listing.left_out):
      tell(text)
    report(outcomes, output)
  if errors and number:
    peers.end("", 1)
  if errors:
    raise UserError(printable(errors[0]))


def is_one_large(listing: Listing, info: DatasetInfo) -> bool:
  """Whether there is one image, and it is large, so that processes share its rows."""
  if listing.total != 1:
    return False
  try:
    (image,), fmt = listing.share(0, 1), info.image_format()
    return is_large(image.path, fmt) and num_pages(image.path, fmt.pages) == 1
  except UserError:
    return False


def by_windows(
  segmenter: Segmenter, process: tuple[int, int], agreed: collections.abc.Callable
) -> collections.abc.Callable[[WindowedImage, pathlib.Path, pathlib.Path], bool] | None:
  """A function of (image, path, path of the overlay) that calls `predict_large`, see there.

  It returns whether this process is the first of those that share the rows. None if the network or
  its options need whole images.
  """
  try:
    predictor = build_window_predictor(segmenter.config, segmenter.model, segmenter.info)
  except UserError:
    return None
  shown = functools.partial(progress, disable=process[0] > 0)

  def write(image, path, picture):
    predict_large(
      predictor, segmenter.variables, image, path, segmenter.info, mark(segmenter),
      overlay_path=picture, process=process, agreed=agreed, say=tell,
      progress=shown,
    )  # fmt: skip
    return process[0] == 0

  return write


def mark(segmenter: Segmenter) -> str:
  """16 characters that differ for networks whose label maps may differ: in weights or options."""
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(segmenter.variables):
    digest.update(np.ascontiguousarray(leaf))
  config = flatten(segmenter.config.to_dict())
  config["predict.temperature"] = 0.0  # no label changes with it
  names = [name for name in config if name.split(".")[0] in ("model", "predict", "crf")]
  names += ["data.fit", "data.image_size", "train.precision"]
  options = [config[name] for name in sorted(names)]
  digest.update(json.dumps([options, dataclasses.asdict(segmenter.info)]).encode())
  return digest.hexdigest()[:16]


def report(outcomes: collections.abc.Sequence[Outcome], output: pathlib.Path) -> None:
  """Prints what the processes have done together."""
  names = ("written", "skipped", "replaced", "kept", "overlays")
  total = {name: sum(getattr(outcome, name) for outcome in outcomes) for name in names}
  if total["replaced"]:
    tell(f"{total['replaced']:,} of the label maps replace one of another network or other options")
  if total["kept"]:
    tell(
      f"{total['kept']:,} files in {output} are called like label maps, but do not say which "
      "network they are of: kept; --overwrite replaces them"
    )
  if total["overlays"]:
    tell(
      f"{total['overlays']:,} files in {output / OVERLAYS} may be somebody else's, or those of an "
      "earlier version: kept; --overwrite replaces them"
    )
  there = f", {total['skipped']:,} were there" if total["skipped"] else ""
  again = " (--overwrite makes them again)" if there else ""
  text = f"{total['written']:,} label map{'s'[: total['written'] != 1]} written{there}{again}"
  say(f"{text}   label maps: {output}   overlays: {output / OVERLAYS}")


def conclude(outcomes: collections.abc.Sequence[Outcome], is_folder: bool) -> list[str]:
  """What went wrong in all processes, the worst first; the same in all of them."""
  errors = [
    f"{outcome.error}; the label maps that are written stay: start again for the others"
    for outcome in outcomes
    if outcome.error
  ]
  if failed := sum(outcome.failed for outcome in outcomes):
    if not is_folder:
      return [*errors, outcomes[0].reason]
    done = sum(outcome.written + outcome.skipped + outcome.kept for outcome in outcomes)
    names = [name for outcome in outcomes for name in outcome.names]
    more = f", ... ({failed:,} in all)" if failed > MAX_NAMED else ""
    errors.append(f"{failed:,} of {failed + done:,} images failed: {few(names[:MAX_NAMED])}{more}")
  if not errors and len({tuple(outcome.seen) for outcome in outcomes}) > 1:
    errors.append("files came or went meanwhile: start again for those that were missed")
  return errors


@contextlib.contextmanager
def stopping(outcome: Outcome) -> collections.abc.Iterator[None]:
  """Says on Ctrl-C and SIGTERM what is done; other processes then end, too."""

  def stop(number, _):
    raise SystemExit(128 + number)

  is_first = threading.current_thread() is threading.main_thread()  # others may not handle signals
  before = signal.signal(signal.SIGTERM, stop) if is_first else None
  try:
    yield
  except (KeyboardInterrupt, SystemExit) as error:
    own = " by this process" if peers.are_several() else ""
    tell(f"stopped: {outcome.written:,} label maps are written{own}; start again for the rest")
    if peers.are_several():
      peers.end("stopped", getattr(error, "code", 130))
    raise
  finally:
    if is_first:
      signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def tell(text: str) -> None:
  """Prints a line above the progress bar."""
  tqdm.tqdm.write(printable(text), file=sys.stderr)

"""Images of a data set that are there twice, or nearly."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxseg.data.examine import Example, Finding
from jaxseg.data.fingerprints import nearest


def find_same_images(splits: Mapping[str, Sequence[Example]]) -> list[Finding]:
  """Images with the same pixels, within a split and across splits."""
  findings, before = [], {}
  for role, examples in splits.items():
    seen = {}
    for example in examples:
      if not example.digest:
        continue
      pair = ()
      if example.digest in seen:
        pair, kind = (example.file, seen[example.digest]), f"duplicates in the {role} split"
        text = "the same pixels count twice: keep one of them"
      elif example.digest in before:
        pair, kind = (example.file, before[example.digest]), "images in both splits"
        text = "they can be memorised, which inflates the score: remove them from one split"
      if pair:
        findings.append(Finding("warning", kind, _named(" = ", pair), text, pair=pair))
      seen.setdefault(example.digest, example.file)
    before |= seen
  return findings


def find_similar_images(splits: Mapping[str, Sequence[Example]]) -> list[Finding]:
  """Images that a perceptual hash cannot tell apart, though their pixels differ.

  Each image is compared with those before it in its split, and with those of earlier splits; the
  most similar one is named. Exact copies, see `find_same_images`, are left out.
  """
  findings, before = [], []
  for role, examples in splits.items():
    unique = {}
    for example in examples:
      if example.hash is not None:
        unique.setdefault(example.digest, example)
    part = list(unique.values())
    digests = {example.digest for example in before}
    new = [example for example in part if example.digest not in digests]
    kind = f"near-duplicates in the {role} split"
    text = (
      "they show nearly the same and add little: keep one of them; a split by percentage or folds "
      "needs `group_by`, or they straddle it"
    )
    findings += _similar(kind, text, part, None)
    if before:
      text = (
        "they show nearly the same, which inflates the score: move them to one split, or split by "
        "`group_by`"
      )
      findings += _similar("near-duplicates in both splits", text, new, before)
    before += part
  return findings


def _similar(kind, text, examples, others):
  def stack(part):
    return np.array([example.hash for example in part], np.uint64).reshape(-1, 4)

  pairs = nearest(stack(examples), None if others is None else stack(others))
  for i, j, bits in pairs:
    pair = examples[i].file, (examples if others is None else others)[j].file
    detail = f"{bits} of 256 bits differ"
    yield Finding("warning", kind, _named(" ~ ", pair), text, detail, pair)


def _named(sign, pair):
  """Both files; the second without its folder if it has the same."""
  first, second = pair
  folder, _, name = second.rpartition("/")
  return first + sign + (name if first.rpartition("/")[0] == folder else second)

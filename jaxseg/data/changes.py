"""Whether a split still has the examples that it had: their number and a digest of their names."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jaxseg.data.datasets import Subset
from jaxseg.data.encoded import Encoded


def digest(source: Sequence) -> dict[str, Any]:
  """JSON-able: the number of examples of a source, and SHA-256 of their names in order.

  Nothing is read. Without names in memory, as of TFDS and Hugging Face, "names" is "".
  """
  names = _names(source)
  text = "" if names is None else hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()
  return {"num_examples": len(source), "names": text}


def _names(source):
  if isinstance(source, Subset):
    names = _names(source.source)
    return names and [names[i] for i in source.indices]
  if isinstance(source, Encoded) and isinstance(source.records, list | tuple):
    return [f"{record['name']} {record.get('page', 0)}" for record in source.records]
  return None


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """What differs between two digests, in words; "" if nothing does.

  Args:
    before: of an earlier version, it may lack entries, which are not compared.
  """
  first, second = before.get("num_examples"), now["num_examples"]
  if first is not None and first != second:
    return f"{first} examples then, {second} now"
  if before.get("names") and now["names"] and before["names"] != now["names"]:
    return f"{second} examples then and now, but of other names, or in another order"
  return ""

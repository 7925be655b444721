"""Downloads networks from the Hugging Face Hub, through its own client and into its cache."""

import os
import pathlib
import re
from collections.abc import Sequence

from jaxseg import UserError, __version__

PREFIX = "hf:"
NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def is_name(source: str | os.PathLike) -> bool:
  """Whether this is a network on the Hub: "hf:OWNER/NAME" or "hf:OWNER/NAME@REVISION"."""
  return os.fspath(source).startswith(PREFIX)


def download(source: str | os.PathLike, names: Sequence[str]) -> pathlib.Path:
  """The folder in the cache of a repository on the Hub; nothing is downloaded twice.

  Without a network, it is what was downloaded before.

  Args:
    source: see `is_name`.  names: of the files to download, as far as there are any.
  Raises:
    UserError: no such repository or revision, no right to it, no network, no huggingface_hub.
  """
  source = os.fspath(source)
  match = NAME.fullmatch(source)
  if not match:
    raise UserError(f"{source} is no name on the Hub; write hf:OWNER/NAME or hf:OWNER/NAME@COMMIT")
  try:
    import huggingface_hub  # here: an extra
    from huggingface_hub import constants, errors
  except ModuleNotFoundError as error:
    raise UserError(f"{source} needs huggingface_hub: pip install -e '.[hub]'") from error
  name, revision = match.groups()
  place, log_in = constants.ENDPOINT, "log in with `hf auth login`"
  try:
    folder = huggingface_hub.snapshot_download(
      name,
      revision=revision,
      allow_patterns=[*names],
      library_name="jaxseg",
      library_version=__version__,
    )
  except errors.HFValidationError as error:
    raise UserError(f"{source}: {name} cannot be a name there; correct it") from error
  except errors.GatedRepoError as error:
    raise UserError(
      f"{source}: its owner has to let you read it; ask for that at {place}/{name}, and {log_in}"
    ) from error
  except errors.RevisionNotFoundError as error:
    raise UserError(f"{source}: {name} has no revision {revision}; correct it") from error
  except errors.RepositoryNotFoundError as error:
    raise UserError(
      f"{source}: {place} has no {name} that you may read; correct the name, or {log_in} if it is "
      "private"
    ) from error
  except (errors.LocalEntryNotFoundError, errors.HTTPError) as error:
    for cause in (error, error.__cause__):
      if (answer := getattr(cause, "response", None)) is not None:
        remedy = log_in if answer.status_code in (401, 403) else "try again later"
        raise UserError(f"{source}: {place} answers {answer.status_code}; {remedy}") from error
    raise UserError(
      f"{source} is not in the cache {constants.HF_HUB_CACHE}, and {place} cannot be reached (no "
      "network, or HF_HUB_OFFLINE is set); go online, or give the path of a copied folder"
    ) from error
  return pathlib.Path(folder)

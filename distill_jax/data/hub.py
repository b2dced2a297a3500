"""Uploads a data set directory to the Hugging Face Hub, when a user asks for it by name."""

import pathlib

import huggingface_hub
from huggingface_hub import errors as hub_errors

from distill_jax import errors


def push(folder: pathlib.Path, name: str) -> str:
  """Uploads a directory as a private data set and returns its address.

  Args:
    folder: The directory.
    name: OWNER/NAME of the data set; it is created if there is none.

  Raises:
    UserError: The hub refuses, cannot be reached, or there is no token (`hf auth login`).
  """
  api = huggingface_hub.HfApi()
  try:
    api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
    api.upload_folder(repo_id=name, repo_type="dataset", folder_path=str(folder))
  except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError, ValueError) as error:
    first = (str(error) or type(error).__name__).splitlines()[0]
    raise errors.data(
      f"--push={name}: {first}; the data set is in {folder}: log in with `hf auth login` and run "
      f"`hf upload {name} {folder} --repo-type=dataset`"
    ) from None
  return f"https://huggingface.co/datasets/{name}"

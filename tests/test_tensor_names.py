"""Names and layouts of PyTorch's tensors as those of Keras."""

import numpy as np
import pytest

from jaxseg.models.pretrained import assign_weights
from jaxseg.models.tensor_names import to_keras


@pytest.mark.parametrize(
  "start", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
def test_prefixes_of_parallel_and_compiled_networks(start):
  kernel = np.zeros((4, 3, 3, 3), np.float32)
  assert [*to_keras({f"{start}a.conv.weight": kernel}, "x.pth")] == ["a_conv/kernel"]
  mixed = {f"{start}a.weight": kernel, "b.weight": kernel}  # part of a name
  assert {*to_keras(mixed, "x.pth")} == {f"{start.replace('.', '_')}a/kernel", "b/kernel"}


def test_a_first_kernel_of_grey_images():
  """In PyTorch's layout it looks like a depthwise one."""
  kernel = np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3)
  tensors = to_keras({"conv.weight": kernel}, "file.pth")
  shapes = {"params": {"conv": {"kernel": np.zeros((3, 3, 1, 2))}}}
  found = assign_weights(shapes, tensors, leave=(), source="file.pth")
  np.testing.assert_array_equal(found["params"]["conv"]["kernel"], kernel.transpose(2, 3, 1, 0))
  shapes["params"]["conv"]["kernel"] = np.zeros((3, 3, 2))
  found = assign_weights(shapes, tensors, leave=(), source="file.pth")
  np.testing.assert_array_equal(found["params"]["conv"]["kernel"][..., 1], kernel[1, 0])

"""Semantic segmentation in JAX: U-Net, FCN and DeepLab as Flax modules."""

VOID = 255  # the label of every pixel that neither loss nor score may see


class UserError(ValueError):
  """A mistake that the user can mend; its text is one line that names the value and the remedy."""

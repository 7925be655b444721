"""Statistics and problems of one example, counted by hand."""

import numpy as np
from drawings import LABELS, document, labelme, read, rectangle, saved, shape
from encoders import encode, tiff
from PIL import Image
from small_masks import ABC, ALPHA, COLORS

from jaxseg.data.decode import ImageFormat
from jaxseg.data.encoded import Encoded
from jaxseg.data.examine import examine
from jaxseg.data.labels import label_map


def test_masks_that_are_pictures():
  """Half a million values: the message comes at once, and check_data keeps a few."""
  rng = np.random.default_rng(0)
  for stored in (rng.random((700, 700), np.float32), rng.integers(0, 255, (700, 700, 3), np.uint8)):
    kind = "rgb" if stored.ndim == 3 else "minisblack"
    record = {"image": encode(ALPHA), "mask": tiff(stored, photometric=kind), "name": "a"}
    example = examine(Encoded([record], ImageFormat(3), label_map(ABC, palette=COLORS)), 3, 0)
    assert "interpolation" in example.fault or "smoothing" in example.fault
    assert len(example.values) == 1000 and len(example.fault) < 500


def test_polygons_are_examined_like_images(tmp_path):
  """check_data counts them: a triangle of 21 pixels, without its hidden labels."""
  Image.fromarray(np.arange(192, dtype=np.uint8).reshape(12, 16)).save(tmp_path / "a.png")
  corners = (0, 0), (5, 0), (5, 5)
  Image.fromarray(np.eye(12, 16, dtype=np.uint8)).save(tmp_path / "diagonal.png")
  square = {"category_id": 6, "segmentation": rectangle(1, 1, 3, 3)}
  for mask, kind, counts in (
    (saved(tmp_path / "b.json", labelme(shape("cat", *corners))), "labelme", [171, 21, 0, 0]),
    (read(tmp_path, document(square, images=((12, 16),)))["a0.jpg"], "COCO", [188, 0, 4, 0]),
    ({"dog": [tmp_path / "diagonal.png"]}, "PNG per label", [180, 0, 12, 0]),
  ):
    record = {"image": tmp_path / "a.png", "mask": mask, "name": "a.png"}
    example = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0)
    assert not example.findings and not example.fault
    assert example.formats == {"image": "PNG grey 8 bit", "mask": kind}
    assert example.counts.tolist() == counts
  record["mask"] = saved(tmp_path / "a.json", labelme(shape("cow", *corners)))
  example = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0)
  assert "label 'cow' is not a class" in example.fault
  record["mask"] = saved(tmp_path / "a.json", b"no JSON")
  (finding,) = examine(Encoded([record], ImageFormat(1), LABELS), 3, 0).findings
  assert finding.kind == "masks that cannot be read"

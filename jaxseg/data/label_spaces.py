"""What the masks of known data sets hold: classes, colours, stored values.

Sources: the VOC 2012 development kit; cityscapesScripts; SceneParse150, the benchmark of ADE20K,
and the colours that are usual for it; SegNet's eleven classes of CamVid; Oxford-IIIT Pets.
"""

import dataclasses
from typing import Any

from jaxseg import UserError


@dataclasses.dataclass(frozen=True)
class LabelSpace:
  """Values of the keys of config.data that have these names, see `labels.label_map`."""

  classes: tuple[str, ...]
  palette: tuple[tuple[int, int, int], ...]
  mask_values: tuple = ()
  void_values: tuple = ()
  void_colors: tuple = ()


def bit_color(label: int) -> tuple[int, int, int]:
  """The colour of a label in VOC: its bits, dealt to R, G and B in turn, highest value first."""
  return tuple(sum((label >> (3 * i + c) & 1) << (7 - i) for i in range(3)) for c in range(3))


def _names(text):
  return tuple(" ".join(name.split()) for name in text.split(","))


def _colors(text):
  return tuple(tuple(bytes.fromhex(color)) for color in text.split())


VOC_CLASSES = _names("""
  background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog,
  horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor""")
VOC = LabelSpace(
  VOC_CLASSES,
  tuple(map(bit_color, range(21))),
  void_values=(255,),
  void_colors=((224, 224, 192),),
)

# Stored id, colour and name, in the order of the train ids.
CITYSCAPES_CLASSES = {
  7: ((128, 64, 128), "road"),
  8: ((244, 35, 232), "sidewalk"),
  11: ((70, 70, 70), "building"),
  12: ((102, 102, 156), "wall"),
  13: ((190, 153, 153), "fence"),
  17: ((153, 153, 153), "pole"),
  19: ((250, 170, 30), "traffic light"),
  20: ((220, 220, 0), "traffic sign"),
  21: ((107, 142, 35), "vegetation"),
  22: ((152, 251, 152), "terrain"),
  23: ((70, 130, 180), "sky"),
  24: ((220, 20, 60), "person"),
  25: ((255, 0, 0), "rider"),
  26: ((0, 0, 142), "car"),
  27: ((0, 0, 70), "truck"),
  28: ((0, 60, 100), "bus"),
  31: ((0, 80, 100), "train"),
  32: ((0, 0, 230), "motorcycle"),
  33: ((119, 11, 32), "bicycle"),
}
COLORS, NAMES = zip(*CITYSCAPES_CLASSES.values(), strict=True)
CITYSCAPES = LabelSpace(
  NAMES,
  COLORS,
  mask_values=tuple(CITYSCAPES_CLASSES),
  void_values=tuple(i for i in range(-1, 34) if i not in CITYSCAPES_CLASSES),
  # Ids 0 to 4, 5, 6, 9, 10, 14, 15, 16, 29 and 30. In colour, a polegroup (18) cannot be told from
  # a pole, nor a license plate (-1) from a car.
  void_colors=(
    (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180),
    (150, 100, 100), (150, 120, 90), (0, 0, 90), (0, 0, 110),
  ),
)  # fmt: skip
CITYSCAPES_TRAIN_IDS = LabelSpace(NAMES, COLORS, void_values=(255,))

ADE20K = LabelSpace(
  _names("""
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar,
    arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight,
    booth, television receiver, airplane, dirt track, apparel, pole, land, bannister, escalator,
    ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
    plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven,
    ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen,
    blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen,
    plate, monitor, bulletin board, shower, radiator, glass, clock, flag"""),
  # Road and skyscraper share a colour.
  _colors("""
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff"""),
  mask_values=tuple(range(1, 151)),
  void_values=(0,),
)

CAMVID = LabelSpace(
  _names("sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist"),
  _colors("808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"),
  void_values=(11,),
  void_colors=((0, 0, 0),),
)

PETS = LabelSpace(
  ("pet", "background", "outline"),
  ((235, 120, 40), (45, 60, 90), (250, 235, 150)),
  mask_values=(1, 2, 3),
)

LABEL_SPACES = {
  "voc": VOC,
  "cityscapes": CITYSCAPES,
  "cityscapes_train_ids": CITYSCAPES_TRAIN_IDS,
  "ade20k": ADE20K,
  "camvid": CAMVID,
  "pets": PETS,
}


def fill_in(label_space: str, given: dict[str, Any]) -> dict[str, Any]:
  """Takes the values of keys that are not set from a table.

  Args:
    label_space: key of LABEL_SPACES; "" for none.  given: {"classes": names, ...}.
  Returns:
    `given`, with the values of the table where there was ()
  Raises:
    UserError: no such table, or it contradicts what is given.
  """
  if not label_space:
    return given
  if label_space not in LABEL_SPACES:
    raise UserError(
      f"`label_space` is {label_space!r}, which is unknown; choose from {', '.join(LABEL_SPACES)}"
    )
  table = vars(LABEL_SPACES[label_space])
  if given.get("classes") and len(given["classes"]) != len(table["classes"]):
    raise UserError(
      f"`classes` has {len(given['classes'])} names, but `label_space`={label_space!r} has "
      f"{len(table['classes'])}: leave one of them out"
    )
  if given.get("reduce_zero_label") and not table["mask_values"]:
    raise UserError(
      f"`reduce_zero_label` contradicts `label_space`={label_space!r}, whose masks count from 0: "
      "leave one of them out"
    )
  return {key: value or table.get(key, value) for key, value in given.items()}

"""Images that are there twice, or nearly, by hand; test_check_data has real ones."""

from test_data_findings import example

from jaxseg.duplicates import find_similar_images


def test_similar_images_name_the_most_similar_one_before():
  train = [example(f"d/{bits}", bits=bits) for bits in (0, 20, 30, 100)]
  train += [example("copy", bits=0, digest=b"d/0"), example("flat", bits=None)]
  train += [example("a/b/1", bits=150), example("a/2", bits=160)]  # one folder in the other
  splits = {"train": train, "eval": [example("e/95", bits=95), example("e/115", bits=115)]}
  splits["eval"].append(example("leak", bits=100, digest=b"d/100"))
  found = [(f.kind, f.file, f.detail, f.pair) for f in find_similar_images(splits)]
  assert {f.severity for f in find_similar_images(splits)} == {"warning"}
  kinds = ["near-duplicates in the train split", "near-duplicates in the eval split",
           "near-duplicates in both splits"]  # fmt: skip
  assert found == [
    (kinds[0], "d/20 ~ 0", "20 of 256 bits differ", ("d/20", "d/0")),
    (kinds[0], "d/30 ~ 20", "10 of 256 bits differ", ("d/30", "d/20")),
    (kinds[0], "a/2 ~ a/b/1", "10 of 256 bits differ", ("a/2", "a/b/1")),
    (kinds[1], "e/115 ~ 95", "20 of 256 bits differ", ("e/115", "e/95")),
    (kinds[1], "leak ~ e/95", "5 of 256 bits differ", ("leak", "e/95")),
    (kinds[2], "e/95 ~ d/100", "5 of 256 bits differ", ("e/95", "d/100")),
    (kinds[2], "e/115 ~ d/100", "15 of 256 bits differ", ("e/115", "d/100")),
  ]

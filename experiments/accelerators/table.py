"""Prints results.json as Markdown: python experiments/accelerators/table.py [FILE]"""

import json
import pathlib
import sys

COLUMNS = {"compile_s": "compiles in s", "temp_GiB": "temp GiB", "argument_GiB": "argument GiB",
           "TFLOP": "TFLOP", "GB": "GB"}  # fmt: skip
OF_TARGETS = {  # and what only one kind of target has
  "tpu": {"Mcycles": "Mcycles", "ms": "ms", "share": "share of peak",
          "model_share": "of useful work"},
  "cuda": {"cudnn_calls": "cuDNN calls", "GB_outside_cudnn": "GB outside cuDNN",
           "GB_outside_products": "GB outside all products", "kernels": "kernels",
           "transposes_of_1_MB": "transposes of 1 MB", "GB_of_transposes": "GB of transposes"},
}  # fmt: skip


def print_table(rows, columns):
  head = ["program", "target", "batch", *columns.values()]
  print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
  for row in rows:
    parts = row["config"], row["what"], *row.get("set", []), row.get("operations", "")
    name = ", ".join(filter(None, parts))
    cells = [row.get("batch", ""), *(row.get(key, "") for key in columns)]
    if row["compiles"] is not True:
      cells[1] = row["compiles"]
    print("| " + " | ".join(map(str, [name, row["target"], *cells])) + " |")


def main():
  path = pathlib.Path(__file__).with_name("results.json")
  rows = json.loads(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else path).read_text())
  for platform, columns in OF_TARGETS.items():
    print()
    print_table([x for x in rows if x["target"].startswith(platform)], COLUMNS | columns)


if __name__ == "__main__":
  main()

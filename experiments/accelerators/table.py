"""Prints results.json as Markdown: python experiments/accelerators/table.py [FILE]"""

import json
import pathlib
import sys

COLUMNS = {"compile_s": "compiles in s", "temp_GiB": "temp GiB", "argument_GiB": "argument GiB",
           "TFLOP": "TFLOP", "GB": "GB", "Mcycles": "Mcycles", "ms": "ms", "share": "share of peak",
           "model_share": "of useful work"}  # fmt: skip


def main():
  path = pathlib.Path(__file__).with_name("results.json")
  rows = json.loads(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else path).read_text())
  head = ["program", "target", "batch", *COLUMNS.values()]
  print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
  for row in rows:
    name = f"{row['config']}, {row['what']}"
    cells = [row.get("batch", ""), *(row.get(key, "") for key in COLUMNS)]
    if row["compiles"] is not True:
      cells[1] = row["compiles"]
    print("| " + " | ".join(map(str, [name, row["target"], *cells])) + " |")


if __name__ == "__main__":
  main()

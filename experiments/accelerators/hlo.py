"""The cycles that the compiler for TPU estimates for each instruction of a program.

python experiments/accelerators/hlo.py FILE [how many]     the dearest instructions
"""

import argparse
import collections
import pathlib
import re

HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")


def instructions(text):
  """{computation: [(name, shape, operation, rest of the line)]} and the entry's name."""
  found, entry, current = {}, "", []
  for line in text.splitlines():
    if head := HEAD.match(line):
      current = found.setdefault(head[2], [])
      entry = head[2] if head[1] else entry
    elif match := INSTRUCTION.match(line):
      current.append(match.groups())
  return found, entry


def costs(text):
  """[(cycles, name, shape, the JAX operation, times)] of a TPU program.

  Bodies of loops count as often as they run; `times` is 0 where the program does not say, and
  they count once.
  """
  computations, entry = instructions(text)
  rows = []

  def visit(name, times):
    for instruction, shape, kind, rest in computations.get(name, ()):
      if found := re.search(r'"estimated_cycles":"(\d+)"', rest):
        operation = re.search(r'op_name="([^"]*)"', rest)
        cycles = int(found[1]) * max(times, 1)
        rows.append((cycles, instruction, shape, operation[1] if operation else "", times))
      if kind == "while":
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
        body = re.search(r"body=%?([\w.\-]+)", rest)
        visit(body[1], times * int(count[1]) if count else 0)
      elif kind in ("call", "conditional"):
        for callee in re.findall(r"(?:to_apply=|branch_computations=\{|, )%([\w.\-]+)", rest):
          visit(callee, times)

  visit(entry, 1)
  return rows


def arguments(description):
  """Of a script that prints the dearest instructions: file and number."""
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("file", type=pathlib.Path)
  parser.add_argument("number", type=int, nargs="?", default=25)
  return parser.parse_args()


def main():
  args = arguments(__doc__)
  rows = costs(args.file.read_text())
  total = sum(row[0] for row in rows)
  print(f"{total / 1e6:.2f} Mcycles")
  for cycles, name, shape, operation, times in sorted(rows, reverse=True)[: args.number]:
    share = f"{cycles / 1e3:8.0f}k {cycles / total:6.1%} x{times}"
    print(f"{share} {name:34.34s} {shape:58.58s} {operation[-90:]}")
  kinds = collections.Counter()
  for cycles, _, _, operation, _ in rows:
    way = "backward" if "transpose(" in operation else "forward"
    kinds[f"{way} {operation.rsplit('/', 1)[-1]}"] += cycles
  print(", ".join(f"{kind} {n / total:.1%}" for kind, n in kinds.most_common(14)))


if __name__ == "__main__":
  main()

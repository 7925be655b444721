"""What a program compiled for a GPU moves through memory.

python experiments/accelerators/cuda.py FILE [how many]     the instructions that move most
"""

import argparse
import collections
import math
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import hlo

BITS = {"pred": 8, "token": 0}  # those whose name does not end in their number of bits
NO_WORK = {"bitcast", "constant", "get-tuple-element", "iota", "parameter", "tuple"}
SLICES = {"dynamic-slice", "gather", "slice"}
LIBRARIES = {"__cudnn$": "cudnn", "__cublas$": "cublas"}  # prefixes of the targets of their calls


def num_bytes(shape):
  """Bytes of an array or a tuple of arrays, written as "(bf16[8,4]{1,0}, f32[])"."""
  total = 0
  for kind, sizes in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape):
    bits = BITS.get(kind) or int(re.match(r"[a-z]+(\d+)", kind)[1])
    total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
  return total


def operands(rest):
  """Names of the operands at the start of the rest of an instruction's line."""
  depth, end = 1, 0
  while depth:
    depth += {"(": 1, ")": -1}.get(rest[end], 0)
    end += 1
  return re.findall(r"%([\w.\-]+)", rest[:end])


def fusion_bytes(body, shape):
  """Bytes that a fusion reads and writes; of arrays that it takes slices of, the slices only."""
  by_name = {name: (out, kind, operands(rest), rest) for name, out, kind, rest in body}
  users = collections.defaultdict(list)
  for name, (_, _, inputs, _) in by_name.items():
    for position, x in enumerate(inputs):
      users[x].append((name, position))

  def read(name):
    """Bytes of `name` that its users read."""
    total, whole = 0, num_bytes(by_name[name][0])
    for user, position in users[name]:
      out, kind = by_name[user][:2]
      if kind in SLICES:
        total += num_bytes(out) if position == 0 else num_bytes(by_name[name][0])
      elif kind == "bitcast":
        total += read(user)
      elif kind == "dynamic-update-slice" and position == 0:
        continue  # written in place
      else:
        return whole
    return min(total, whole)

  total, updated = num_bytes(shape), 0
  for name, (out, kind, inputs, _) in by_name.items():
    if kind == "parameter":
      total += read(name)
    elif kind == "dynamic-update-slice":
      updated += num_bytes(out) - num_bytes(by_name[inputs[1]][0])
  return max(total - updated, 0)


def costs(text):
  """[(bytes, kind, name, shape, the JAX operation, times)] of all kernels of a GPU program.

  Bytes are those of operands and results, times the number of times: no more than what moves if
  nothing stays in the cache from one kernel to the next. Kinds: "cudnn", "cublas" and other calls,
  "transpose" (and copies) "reduce", "gemm", "loop" ("fusion" of another kind).
  """
  computations, entry = hlo.instructions(text)
  rows = []

  def visit(name, times):
    body = computations.get(name, ())
    shapes = {instruction: shape for instruction, shape, _, _ in body}
    for instruction, shape, kind, rest in body:
      if kind in NO_WORK or kind.endswith("-done"):
        continue
      if kind in ("while", "conditional", "call"):
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
        for callee in re.findall(r"(?:body=|to_apply=|branch_computations=\{|, )%([\w.\-]+)", rest):
          if callee in computations and callee not in shapes:
            visit(callee, times * int(count[1]) if count else times)
        continue
      moved = num_bytes(shape) + sum(num_bytes(shapes.get(x, "")) for x in operands(rest))
      if kind == "fusion":
        callee = re.search(r"calls=%([\w.\-]+)", rest)[1]
        moved = fusion_bytes(computations[callee], shape)
        kind = fusion_kind(computations[callee], rest)
      elif kind == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', rest)[1]
        kind = next((v for k, v in LIBRARIES.items() if target.startswith(k)), target)
      elif kind == "copy":
        kind = "transpose"
      operation = re.search(r'op_name="([^"]*)"', rest)
      rows.append(
        (moved * times, kind, instruction, shape, operation[1] if operation else "", times)
      )

  visit(entry, 1)
  return rows


def fusion_kind(body, rest):
  kinds = {kind for _, _, kind, _ in body}
  if '"kind":"__triton_gemm' in rest or '__triton_nested_gemm' in rest or "dot" in kinds:
    return "gemm"
  for kind in ("transpose", "reduce", "copy"):
    if kind in kinds:
      return "transpose" if kind == "copy" else kind
  return "loop"


def facts(text):
  return {}

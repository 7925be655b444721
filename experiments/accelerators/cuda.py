"""What a program compiled for a GPU moves through memory.

python experiments/accelerators/cuda.py FILE [how many]     the kernels that move most
"""

import collections
import math
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import hlo

NO_WORK = {"bitcast", "constant", "get-tuple-element", "iota", "parameter", "tuple"}
SLICES = {"dynamic-slice", "gather", "slice"}
PRODUCTS = {"cudnn", "cublas", "gemm"}
ARRAY = r"\b([a-z]\w*)\[([\d,]*)\]"


def sizes(shape):
  """Axes of the first array of a shape."""
  return [int(n) for n in re.search(ARRAY, shape)[2].split(",") if n]


def num_bytes(shape):
  """Bytes of an array or a tuple of arrays, written as "(bf16[8,4]{1,0}, f32[])"."""
  total = 0
  for kind, axes in re.findall(ARRAY, shape):
    bits = {"pred": 8, "token": 0}.get(kind) or int(re.search(r"\d+|$", kind)[0] or 0)
    total += math.prod(int(n) for n in axes.split(",") if n) * bits // 8
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
  kinds = {name: (out, kind, operands(rest)) for name, out, kind, rest in body}
  users = collections.defaultdict(list)
  for name, (_, _, inputs) in kinds.items():
    for position, x in enumerate(inputs):
      users[x].append((name, position))

  def read(name):
    total, whole = 0, num_bytes(kinds[name][0])
    for user, position in users[name]:
      out, kind, _ = kinds[user]
      if kind in SLICES and position == 0:
        total += num_bytes(out)
      elif kind == "bitcast":
        total += read(user)
      elif kind != "dynamic-update-slice" or position != 0:  # which happens in place
        return whole
    return min(total, whole)

  total = num_bytes(shape)
  for name, (out, kind, inputs) in kinds.items():
    if kind == "parameter":
      total += read(name)
    elif kind == "dynamic-update-slice":
      total -= num_bytes(out) - num_bytes(kinds[inputs[1]][0])
  return max(total, 0)


def product_flop(shapes, shape, rest, target=""):
  """Multiplications and additions of a matrix product or of a call of cuDNN."""
  left, right, *_ = (sizes(shapes[x]) for x in operands(rest)[:2])
  if target.startswith("__cudnn$"):
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
    out = sizes(shape)
    # Each output value of the convolution as it is written forward sees a kernel of one channel.
    maps, kernel = {"BackwardInput": (left, right), "BackwardFilter": (right, out)}.get(
      target.removeprefix("__cudnn$conv"), (out, right)
    )
    return 2 * math.prod(maps) * math.prod(kernel) // kernel[labels.index("o")]
  found = re.search(r'lhs_contracting_dim(?:ension)?s"?(?:=\{|:\[)([\d,"]*)', rest)
  axes = [int(n) for n in re.findall(r"\d+", found[1])] if found else []
  return 2 * math.prod(sizes(shape)) * math.prod(left[axis] for axis in axes)


def costs(text):
  """[(bytes, FLOP of products, kind, name, shape, the JAX operation, times)] of all kernels.

  Bytes are those of operands and results, as often as the kernel runs: what moves if nothing stays
  in the cache from one kernel to the next. Kinds: "cudnn" and "cublas", calls of the libraries;
  "gemm", matrix products that XLA generates; "transpose", with copies; "reduce"; "loop", other
  element-wise work.
  """
  computations, entry = hlo.instructions(text)
  rows = []

  def visit(name, times):
    body = computations.get(name, ())
    shapes = {instruction: shape for instruction, shape, _, _ in body}
    for instruction, shape, kind, rest in body:
      if kind in ("while", "conditional", "call"):
        count = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
        callees = re.findall(r"(?:body=|to_apply=|branch_computations=\{|, )%([\w.\-]+)", rest)
        for callee in set(callees) - set(shapes):
          visit(callee, times * int(count[1]) if count else times)
      elif kind not in NO_WORK and not kind.endswith("-done"):
        moved, flop = num_bytes(shape), 0
        moved += sum(num_bytes(shapes.get(x, "")) for x in operands(rest))
        if kind == "fusion":
          inner = computations[re.search(r"calls=%([\w.\-]+)", rest)[1]]
          moved, kind, flop = fusion_bytes(inner, shape), *fusion_kind(computations, inner)
        elif kind == "custom-call":
          target = re.search(r'custom_call_target="([^"]*)"', rest)[1]
          kind = re.search(r"__(cudnn|cublas)\$|$", target)[1] or target
          if kind in PRODUCTS:
            flop = product_flop(shapes, shape, rest, target)
            scratch = re.search(r", ([su]8\[\d+\]\{0\})\)$", shape)
            moved -= num_bytes(scratch[1]) if scratch else 0
        operation = (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1]
        kind = "transpose" if kind == "copy" else kind
        rows.append((moved * times, flop * times, kind, instruction, shape, operation, times))

  visit(entry, 1)
  return rows


def fusion_kind(computations, body):
  """(kind of a fusion, FLOP of its matrix products), see `costs`."""
  kinds, flop = {kind for _, _, kind, _ in body}, 0
  shapes = {name: shape for name, shape, _, _ in body}
  for _, shape, kind, rest in body:
    if kind == "dot":
      flop += product_flop(shapes, shape, rest)
    elif kind == "fusion":
      inner = fusion_kind(computations, computations[re.search(r"calls=%([\w.\-]+)", rest)[1]])
      kinds, flop = kinds | ({"dot"} if inner[0] == "gemm" else set()), flop + inner[1]
  names = {"dot": "gemm", "transpose": "transpose", "reduce": "reduce", "copy": "transpose"}
  return next((name for kind, name in names.items() if kind in kinds), "loop"), flop


def facts(text):
  """The columns of a GPU program in results.json."""
  rows = costs(text)
  moved, number = collections.Counter(), collections.Counter()
  for num, _, kind, *_, times in rows:
    moved[kind] += num
    number[kind] += times
    number["large transpose"] += times * (kind == "transpose" and num >= 1e6 * times)
  return {
    "TFLOP": sum(row[1] for row in rows) / 1e12,
    "GB": sum(moved.values()) / 1e9,
    "cudnn_calls": number["cudnn"],
    "GB_outside_cudnn": sum(moved.values()) / 1e9 - moved["cudnn"] / 1e9,
    "GB_outside_products": sum(num for kind, num in moved.items() if kind not in PRODUCTS) / 1e9,
    "transposes_of_1_MB": number["large transpose"],
    "GB_of_transposes": moved["transpose"] / 1e9,
    "kernels": sum(number.values()),
  }


def main():
  args = hlo.arguments(__doc__)
  text = args.file.read_text()
  for moved, _, kind, name, shape, operation, times in sorted(costs(text), reverse=True)[
    : args.number
  ]:
    print(
      f"{moved / 1e6:8.1f} MB {kind:9.9s} x{times} {name:34.34s} {shape:58.58s} {operation[-80:]}"
    )
  print(facts(text))


if __name__ == "__main__":
  main()

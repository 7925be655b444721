"""The marginals of pydensecrf2 on the cases of compare.py, in a Python that has it.

python peer.py FOLDER: for each NAME.npz with probs and image, NAME.peer.npz with marginals and
seconds, the fastest of five.
"""

import pathlib
import sys
import time

import numpy as np
import pydensecrf.densecrf as densecrf


def infer(probs, image):
  h, w, num_classes = probs.shape
  crf = densecrf.DenseCRF2D(w, h, num_classes)
  energy = -np.log(np.maximum(probs, 1e-30)).reshape(h * w, num_classes)
  crf.setUnaryEnergy(np.ascontiguousarray(energy.T))
  crf.addPairwiseGaussian(sxy=3, compat=3)
  crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(image), compat=10)
  return np.array(crf.inference(10)).T.reshape(h, w, num_classes)


def main():
  files = sorted(pathlib.Path(sys.argv[1]).glob("*.npz"))
  for file in files:
    case, seconds = np.load(file), []
    for _ in range(5):
      start = time.perf_counter()
      marginals = infer(case["probs"], case["image"])
      seconds.append(time.perf_counter() - start)
    np.savez(file.with_suffix(".peer.npz"), marginals=marginals, seconds=min(seconds))


if __name__ == "__main__":
  main()

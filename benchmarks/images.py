"""Reading a folder of JPEGs while training: random parts of 224 x 224 by two processes, beside PIL decoding alone.

python -m benchmarks.images [--images 400] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.targets import Measured
from ruledsl import data
from ruledsl.data.augment import augmentations

WORKERS, BATCH, PASSES = 2, 50, 8  # so many that the batches that lie ready at the beginning count little
SIZE = (375, 500)
"""Height and width, those of most images of ImageNet."""


def drawn(folder: Path, images: int) -> None:
    """Smooth pictures, of which a JPEG is about as large as of a photograph."""
    random = np.random.Generator(np.random.PCG64(0))
    for index in range(images):
        place = folder / ("train" if index else "val") / "class"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8))
        pixels = np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f"{index}.jpg", quality=90)


def decode(files: list[str]) -> int:
    """PIL alone."""
    return sum(Image.open(file).convert("RGB").size[0] for file in files)


def measure(images: int = 400, rounds: int = 3) -> dict[str, Measured]:
    """The time of the pipeline, over that of decoding alone in as many processes, which is started beforehand."""
    with TemporaryDirectory() as name, ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        drawn(Path(name), images + 1)
        dataset = data.load("image_folder", Path(name))
        split = dataset.augmented(augmentations(["random_resized_crop 224", "flip"])).read_by(WORKERS).train
        files = [str(path) for path in sorted((Path(name) / "train" / "class").iterdir())]
        shares = [files[index::WORKERS] for index in range(WORKERS)]
        list(pool.map(decode, [files[:1]] * WORKERS))
        ratios, speeds = [], []
        for epoch in range(rounds):
            start = time.perf_counter()
            list(pool.map(decode, shares))
            alone = (time.perf_counter() - start) / len(files)
            order = np.concatenate([split.order(BATCH, 0, each) for each in range(PASSES)])
            batches = split.batches(order, 0, len(order), 0, epoch)
            next(batches)  # the workers are there
            start = time.perf_counter()
            read = sum(len(batch) for batch in batches)
            own = (time.perf_counter() - start) / read
            ratios.append(own / alone)
            speeds.append(1 / own)
        note = f"{statistics.median(speeds):.0f} images/s, {WORKERS} workers"
        return {"ratio": Measured(statistics.median(ratios), note)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found = measure(given.images, given.rounds)["ratio"]
    print(f"{found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()

"""Residual k-means against faiss's k-means run per level: seconds to fit and encode, and the error left, in one run.

    python benchmarks/kmeans.py [--shapes 100000x768 300000x128] [--threads 1]

Vectors are drawn around nested centres, so that three levels have something to find. Both encode all vectors; the error
is the squared norm left after all levels over that of the centred vectors. Writes results/benchmarks/kmeans.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import torch

from semid.nn.kmeans import residual_kmeans
from semid.nn.quantize import CHUNK, residual_codes

LEVELS, SIZE, SAMPLE = 3, 256, 256


def nested(count: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 [N, D]: centres of three scales plus noise, on a decaying spectrum as text vectors have."""
    rng = np.random.default_rng(seed)
    spectrum = (1 + np.arange(dim)) ** -0.5
    vectors = 0.5 * rng.standard_normal((count, dim), dtype=np.float32)
    for centres, scale in ((100, 1.0), (1000, 0.7), (10_000, 0.5)):
        vectors += scale * rng.standard_normal((centres, dim), dtype=np.float32)[rng.integers(0, centres, count)]
    return (vectors * spectrum).astype(np.float32)


def ours(vectors: np.ndarray) -> float:
    """Fit on a sample of 256 vectors a code, encode all, return the squared norm left."""
    points = torch.from_numpy(vectors)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(points), generator=generator)[: SAMPLE * SIZE].sort().values
    codebooks = residual_kmeans(points[rows], LEVELS, SIZE, generator=generator)
    return sum(float(residual_codes(part, codebooks)[1].square().sum()) for part in points.split(CHUNK))


def faiss_per_level(vectors: np.ndarray) -> float:
    """Train faiss.Kmeans (25 iterations, 256 vectors a code) on the residuals, level by level; the squared norm left."""
    import faiss

    residual = vectors
    for level in range(LEVELS):
        kmeans = faiss.Kmeans(vectors.shape[1], SIZE, niter=25, seed=level, max_points_per_centroid=SAMPLE)
        kmeans.train(residual)
        residual = residual - kmeans.centroids[kmeans.index.search(residual, 1)[1][:, 0]]
    return float(np.square(residual).sum(dtype=np.float64))


def measure(shape: str) -> dict:
    """Time both on one shape, `NxD`."""
    count, dim = map(int, shape.split("x"))
    vectors = nested(count, dim)
    total = float(np.square(vectors - vectors.mean(0)).sum(dtype=np.float64))
    row: dict = {"shape": shape}
    for name, method in (("semid", ours), ("faiss", faiss_per_level)):
        wall, cpu = time.perf_counter(), time.process_time()
        left = method(vectors)
        row[name] = {"seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
                     "error": round(left / total, 4)}
    row["speedup"] = round(row["faiss"]["cpu_seconds"] / row["semid"]["cpu_seconds"], 2)
    return row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["100000x768", "300000x128"], help="numbers of vectors x widths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/kmeans.json"))
    args = parser.parse_args(argv)
    import faiss

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    rows = []
    for shape in args.shapes:
        rows.append(measure(shape))
        print(json.dumps(rows[-1]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": "kmeans", "levels": LEVELS, "size": SIZE, "threads": args.threads, "torch": torch.__version__,
              "faiss": faiss.__version__, "machine": platform.machine(), "rows": rows,
              "speedup": "CPU seconds of faiss over those of semid, fitting and encoding included"}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

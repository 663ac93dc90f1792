"""The same rows by Spark's mapInPandas: python -m benchmarks.scale_spark SHARDS OUT WORKERS PART (pyspark and Java).

Spark gets the shards' members as they are listed, and each worker embeds what it is given. The rows are written as
`part-*.parquet`, so that `benchmarks.scale` can measure them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from shotfit.data.parts import Parts

SCHEMA = "image string, error string, features array<float>"


def embedded(frames: Iterator[Any]) -> Iterator[Any]:
    """What a worker does."""
    import torch

    from shotfit.data.pictures import Picture
    from shotfit.fitting.jobs import Embedding, decode

    torch.set_num_threads(1)
    job = Embedding("mini")
    for frame in frames:
        yield job.run(decode([Picture.of(path) for path in frame["path"]], job.shown)).to_pandas()


def main() -> None:
    """Embed the pictures of the shards."""
    from pyspark.sql import SparkSession

    shards, out, workers, part = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    spark = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", part)
    names = [str(picture) for found in Parts([shards], int(part)) for picture in found.pictures()]
    count = max(1, len(names) // int(part))
    paths = spark.createDataFrame([(name,) for name in names], "path string").repartition(count)
    paths.mapInPandas(embedded, SCHEMA).write.parquet(out)
    spark.stop()


if __name__ == "__main__":
    main()

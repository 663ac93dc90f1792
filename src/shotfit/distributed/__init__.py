"""More than one process of one machine: Ray Data for parts of pictures, Ray tasks for comparisons.

    with Cluster("10.0.0.1:6379") as cluster:
        predict_parts(model, ["photos/"], Path("labels"), engine=cluster.engine())

Nothing else of shotfit knows of Ray, and Ray is imported where a cluster is opened. `cluster` starts or joins one,
`engine` sends parts through it, `stages` is what its workers do, `side_by_side` carries out runs of a comparison.
"""

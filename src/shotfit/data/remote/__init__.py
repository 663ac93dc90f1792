"""Pictures that lie elsewhere, read through fsspec: what an address is, bytes of it, files that can be sought in."""

"""Answers for more pictures than anybody lists: `convforge predict --out`.

- `sources`: folders, lists, shards and tables, here or in a cloud's storage, cut into pieces;
- `results`: the folder of Parquet files, of which whole ones count; answered on this machine;
- `on_ray`: answered by a Ray cluster.
"""

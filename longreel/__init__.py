"""Long-history recommendation training, day by day: one import namespace over the top-level folders.

`longreel/model`, `longreel/spark_jobs` and so on are links to the folders of the same name beside this one, so
`longreel.model` means one thing in a checkout, in an installed wheel, in a Spark task and in a served model
(docs/decisions/0011-one-import-namespace.md). This folder's own files are the command line and the embedded stack.
"""

"""Libraries that benchmarks compare, one file each, and the processes that they live in.

A library's file has a function for each subject that it can do (`decoding`, `encoding`,
`training`), with the checkpoint's folder and a dtype as arguments. It returns `prepare`, a function
of one case's sizes, which returns `run`: one call is one turn, and returns when its work is done.
"""

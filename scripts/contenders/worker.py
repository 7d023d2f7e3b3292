"""The process of one contender: it answers the lines of JSON on its standard input.

    python -m contenders.worker LIBRARY SUBJECT FOLDER DTYPE

{"prepare": {sizes of a case}} is answered after two calls, which compile what there is to compile:
{"found": [[ids]]} or null. {"run": calls} is answered by {"seconds": of one call}, or of one token
where a call returns how many tokens it took in.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

import numpy as np


def main() -> None:
    library, subject, folder, dtype = sys.argv[1:]
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        module = importlib.import_module(f"contenders.{library}")
    except ModuleNotFoundError as error:
        raise SystemExit(str(error)) from None
    prepare = getattr(module, subject)(folder, dtype)
    answer({"ready": True})
    run = None
    for line in sys.stdin:
        question = json.loads(line)
        if "prepare" in question:
            run = None  # frees what the case before needed
            run = prepare(**question["prepare"])
            run()
            found = run()
            answer({"found": found.tolist() if isinstance(found, np.ndarray) else None})
        else:
            began = time.perf_counter()
            found = [run() for _ in range(question["run"])]
            seconds = time.perf_counter() - began
            tokens = isinstance(found[0], int)
            answer({"seconds": seconds / (sum(found) if tokens else len(found))})


if __name__ == "__main__":
    main()

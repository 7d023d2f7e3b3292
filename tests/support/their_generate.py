"""What transformers' `generate` gives for folders that we wrote; a program as well.

A program, so that another version of transformers can be first on its PYTHONPATH: it reads jobs
from stdin as JSON, and prints transformers' version and the outputs as JSON.
"""

import json
import sys


def generate(jobs: list[dict]) -> list[list[list[int]]]:
    """Of each job's `folder`, `ids` and `options`: ids by row, without the start id."""
    import torch
    import transformers

    results = []
    for job in jobs:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(job["folder"]).eval()
        ids = torch.tensor(job["ids"])
        mask = (ids != model.config.pad_token_id).long()
        with torch.no_grad():
            out = model.generate(ids, attention_mask=mask, **job.get("options", {}))
        results.append(out[:, 1:].tolist())
    return results


if __name__ == "__main__":
    import transformers

    found = generate(json.load(sys.stdin))
    print(json.dumps({"version": transformers.__version__, "ids": found}))

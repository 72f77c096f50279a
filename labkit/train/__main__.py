"""``python -m labkit.train TASK …``: ``labkit train`` for torchrun, which starts modules."""

import sys

from labkit.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()

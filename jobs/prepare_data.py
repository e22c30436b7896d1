"""One stage: read the interaction log and write items, sequences and examples."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(
        main(
            sys.argv[1:],
            "prepare_data",
            "Read the interaction log and write items, sequences and examples.",
            only="data",
        )
    )

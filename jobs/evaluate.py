"""One stage: rank and generate on all rows with every model."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "evaluate", "Rank and generate on all rows with every model.", only="evaluate"))

"""One stage: make the rejected samples with their reference log-probabilities."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(
        main(sys.argv[1:], "reject", "Make the rejected samples with their reference log-probabilities.", only="reject")
    )

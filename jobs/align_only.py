"""One stage: align the policy on the pairs."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "align_only", "Align the policy on the pairs.", only="align"))

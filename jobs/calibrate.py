"""One stage: fit the oracle's temperature and report how far it can be trusted."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(
        main(
            sys.argv[1:],
            "calibrate",
            "Fit the oracle's temperature and report how far it can be trusted.",
            only="calibrate",
        )
    )

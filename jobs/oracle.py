"""One stage: train the preference oracle."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "oracle", "Train the preference oracle.", only="oracle"))

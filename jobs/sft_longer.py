"""One stage: continue SFT for as many steps as alignment took (the control)."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(
        main(
            sys.argv[1:],
            "sft_longer",
            "Continue SFT for as many steps as alignment took (the control).",
            only="sft_longer",
        )
    )

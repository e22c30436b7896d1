"""The whole pipeline: logs -> examples -> SFT -> rejected samples -> alignment -> evaluation -> registry."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "align", "Align an LLM-based recommender with what its users value (RosePO)."))

"""The whole pipeline: logs -> examples -> SFT -> rejected samples -> alignment -> evaluation -> registry."""

import sys

from rosepo_ray.run import commands

if __name__ == "__main__":
    sys.exit(commands.align(sys.argv[1:], "jobs/align.py"))

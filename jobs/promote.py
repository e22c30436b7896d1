"""Promote the version that a run registered, or take the last promotion back: python jobs/promote.py --help"""

import sys

from rosepo_ray.run import commands

if __name__ == "__main__":
    sys.exit(commands.promote(sys.argv[1:], "jobs/promote.py"))

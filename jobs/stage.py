"""One stage of the pipeline in a run directory: python jobs/stage.py NAME --run.dir DIR …"""

import sys

from rosepo_ray.run import commands

if __name__ == "__main__":
    sys.exit(commands.stage(sys.argv[1:], "jobs/stage.py"))

"""One stage: fine-tune the language model on the training split."""

import sys

from rosepo_ray.run.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], "sft", "Fine-tune the language model on the training split.", only="sft"))

"""The front door for Python: data in memory, alignment in this process, and a policy that ranks and writes."""

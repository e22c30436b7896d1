"""RosePO (arXiv:2410.12519) as a Ray pipeline: align an LLM-based recommender with what its users value."""

__version__ = "0.1.0"

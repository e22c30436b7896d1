"""All that knows Ray; the only room that imports it."""

from rosepo_ray import extras

extras.need("ray", "ray", "the pipeline")

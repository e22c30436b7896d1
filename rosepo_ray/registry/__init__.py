"""Runs, models and promotions in MLflow."""

from rosepo_ray import extras

extras.need("mlflow", "mlflow", "the record of a run")

"""Search over spaces: objectives, evaluation, archive, evolution, predictors, latency, front."""

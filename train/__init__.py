"""Training: data, distillation, the sandwich rule, schedules, checkpoints, tracking."""

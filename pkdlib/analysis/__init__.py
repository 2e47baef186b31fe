"""What trained models and records of runs say: similarities, statistics, tables, figures, widgets."""

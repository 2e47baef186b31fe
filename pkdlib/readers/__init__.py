"""Rows from files, tables and the hub, and a run's rows read again."""

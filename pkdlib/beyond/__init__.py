"""Beyond the paper: another objective, and one student for many tasks."""

"""A student in use: labels for the rows of a file, and an ONNX file that runs without torch."""

"""One module per workload. Each has `measure(scene, size)`: one repetition, its figures by the name of the row."""

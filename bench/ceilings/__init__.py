"""What the machine could do if Perdure cost nothing: the bare parts of its path, measured in the same run."""

"""Networks: what they are, how they are trained, judged and kept."""

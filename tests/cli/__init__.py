# A training that is over soon.
QUICK = ["--hidden", "8", "--epochs", "2", "--no-plot"]


def flat(text):
    """Return text as one line: output is wrapped at 80 columns."""
    return " ".join(text.split())

# A training that is over soon.
QUICK = ["--hidden", "8", "--epochs", "2", "--no-plot"]

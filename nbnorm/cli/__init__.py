"""The command line."""

from nbnorm.cli.main import main as main

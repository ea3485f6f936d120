"""The command line behind run.sh."""

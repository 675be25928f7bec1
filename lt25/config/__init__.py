"""What a configuration file may say: keys and their checks, and how a file is read. Nothing here imports torch."""

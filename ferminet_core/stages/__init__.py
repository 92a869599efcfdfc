"""The loops of the stages; they open no file."""

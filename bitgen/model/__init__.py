"""The parts of the model, one file each; `bitgen.py` puts them together."""

"""What bitgen-show writes: pages of data and of runs."""

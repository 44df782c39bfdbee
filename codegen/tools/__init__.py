"""Tools around the kernels: tuner, roofline, single kernels, remote machines."""

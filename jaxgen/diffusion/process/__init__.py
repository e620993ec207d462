"""Diffusion processes: paths, schedules of noise levels, parameterizations, their algebra, and the posterior."""

"""What a diffusion process is: paths, schedules of noise levels, parameterizations, and their algebra."""

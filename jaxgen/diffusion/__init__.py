"""Diffusion mathematics apart from any network: noise schedules, samplers as functions of a denoiser, guidance."""

"""Post-train diffusion language models on the decoding trajectories they produce themselves."""

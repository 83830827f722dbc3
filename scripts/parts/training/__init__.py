"""Training of the demo model: drawn scenes, a mask VQ-VAE, and a small PaliGemma."""

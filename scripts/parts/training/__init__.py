"""How the demo model is made: drawn scenes, a mask VQ-VAE, and a small PaliGemma."""

"""minilm_np where a framework wants an object of its own: a small file each, which alone imports that framework."""

"""The systems that are asked: their prompts, and the omni models behind one interface."""

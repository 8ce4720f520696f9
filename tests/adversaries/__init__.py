"""The cheats: one small module each, played against the real checks without a network and over real HTTP."""

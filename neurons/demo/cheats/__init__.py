"""Real miners that cheat, one way each; the demo and the tests run them."""

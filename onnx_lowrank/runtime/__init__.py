"""All that runs a network: sessions, providers, inputs, and how long it takes."""

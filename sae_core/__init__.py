"""The library both halves stand on: precompute writes runs with it, the dashboard reads them with it."""

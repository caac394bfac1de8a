"""Other frameworks: `audit` measures which convention each one has, `translate` carries a checkpoint from one to another."""

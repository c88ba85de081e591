"""Training schemes, one LightningModule each, and the run around them."""

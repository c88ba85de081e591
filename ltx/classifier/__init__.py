"""The explained model behind one interface: loading, preprocessing, feature maps, class names."""

"""Text, images and video as vectors in one space."""

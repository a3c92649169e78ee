"""Images: what is stored of a body, perceptual hashes, thumbnails."""

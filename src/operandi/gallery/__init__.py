"""All figures of a result, or of several states side by side: which there are, what they show, and the files that hold them."""
